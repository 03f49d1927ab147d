"""What all drivers have in common: the job on stdin, the answer on stdout, and the loop of the runtimes that bring none of their own.

Job:    {"artifact": DIR, "prompts": [[id, …], …], "max_new_tokens": N, "eos": [id, …],
         "batches": [{"side": "left" | "right", "pad": id, "rows": [[id, …], …]}, …]}
Answer: {"runtime": NAME, "version": V, "greedy": IDS, "batches": [IDS, …]}
IDS is a list of rows of new token ids, each cut before the first end-of-sequence token, or {"error": MESSAGE}.
"""
import contextlib, json, os, sys
import numpy as np


def answer(runtime, version, load):
    """`load(artifact)` gives a model with `greedy(rows, side, pad, new_tokens, eos)`: new ids of rows that are padded on a side."""
    job = json.load(sys.stdin)
    # Libraries that print do so to file descriptor 1 too.
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    limits = {"new_tokens": job["max_new_tokens"], "eos": job["eos"]}
    with contextlib.redirect_stdout(sys.stderr):
        model = said(lambda: load(job["artifact"]))
        if isinstance(model, dict):
            greedy, batches = model, [model for _ in job["batches"]]
        else:
            one = lambda prompt: model.greedy([prompt], "left", job["eos"][0], **limits)[0]
            greedy = said(lambda: [cut(one(prompt), job["eos"]) for prompt in job["prompts"]])
            batch = lambda rows, side, pad: [cut(ids, job["eos"]) for ids in model.greedy(rows, side, pad, **limits)]
            batches = [said(lambda: batch(**asked)) for asked in job["batches"]]
    json.dump({"runtime": runtime, "version": version, "greedy": greedy, "batches": batches}, stdout)
    stdout.close()
    # Some libraries crash while the interpreter takes them down.
    os._exit(0)


def said(compute):
    try:
        return compute()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".strip()}


def cut(ids, eos):
    ids = [int(token) for token in ids]
    return ids[:next((at for at, token in enumerate(ids) if token in eos), len(ids))]


def pad_rows(rows, side, pad):
    """Ids and mask of rows that are made as long as the longest of them."""
    length = max(map(len, rows))
    ids, mask = np.full((len(rows), length), pad, np.int64), np.zeros((len(rows), length), np.int64)
    for row, prompt in enumerate(rows):
        place = slice(0, len(prompt)) if side == "right" else slice(length - len(prompt), length)
        ids[row, place], mask[row, place] = prompt, 1
    return ids, mask


class Loop:
    """Greedy decoding with past_key_values, as optimum and transformers.js do it, over `run(feed) -> {output: array}`.

    `inputs` has the dimensions and the numpy type of each input of the graph; only those are fed.
    """

    def __init__(self, inputs, run):
        self.inputs, self.run = inputs, run

    def greedy(self, rows, side, pad, new_tokens, eos):
        step, mask = pad_rows(rows, side, pad)
        # The last token of each row; after the prompt rows are one token long.
        last = [len(row) - 1 if side == "right" else -1 for row in rows]
        positions = np.where(mask == 0, 1, mask.cumsum(1) - 1)
        cache = {name: np.zeros((len(rows), dims[1], 0, dims[3]), dtype)
                 for name, (dims, dtype) in self.inputs.items() if name.startswith("past_key_values.")}
        new = [[] for _ in rows]
        for _ in range(new_tokens):
            feed = {"input_ids": step, "attention_mask": mask, "position_ids": positions,
                    "num_logits_to_keep": np.array(0, np.int64), **cache}
            out = self.run({name: value for name, value in feed.items() if name in self.inputs})
            cache = {name: out["present" + name.removeprefix("past_key_values")] for name in cache}
            tokens = [int(out["logits"][row, at].argmax()) for row, at in enumerate(last)]
            for ids, token in zip(new, tokens):
                ids.append(token)
            if all(set(ids) & set(eos) for ids in new):
                break
            step, last = np.array(tokens, np.int64)[:, None], [-1] * len(rows)
            mask = np.concatenate([mask, np.ones((len(rows), 1), np.int64)], 1)
            positions = mask.sum(1, keepdims=True) - 1
        return new
