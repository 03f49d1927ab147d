#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.15.0", "transformers==5.17.0", "numpy"]
# ///
"""Statistics of every linear's input, from Hugging Face transformers in f32 with sums in f64: the reference for calibration.

Sequences of several lengths are cut from TEXT. Two models read them: the checkpoint, and the checkpoint with the weights of
its decoder linears rounded to multiples of 1/32 (ties to even), which stands for a quantized one. For each input in the order
of the layers (q/k/v, o, gate/up, down; at last the LM head's) this writes, of `G = sum(x'x) / tokens` and of the cross Gram
matrix `C = sum(reference' rounded) / tokens`, the trace and some entries, and of mean|x| and max|x| the sum and some channels.

usage: golden_statistics.py MODEL TEXT OUT.json
"""
import argparse, copy, json
import numpy as np, torch, transformers

LENGTHS = [160, 96, 160, 96, 160, 37, 160]
PICKED = 8  # entries of each statistic


def inputs_of(model, sequences):
    """Inputs of the linears that read first: one f64 array [tokens, width] each."""
    taps = []
    for layer in model.model.layers:
        taps += [layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.down_proj]
    taps.append(model.lm_head)
    seen = [[] for _ in taps]
    hooks = [tap.register_forward_pre_hook(lambda _, args, i=i: seen[i].append(args[0][0].double().numpy())) for i, tap in enumerate(taps)]
    with torch.no_grad():
        for ids in sequences:
            model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return [np.concatenate(rows) for rows in seen]


def picked(width):
    return [(i * 97 + 5) % width for i in range(PICKED)], [(i * 61 + 3) % width for i in range(PICKED)]


def matrix(m):
    rows, columns = picked(len(m))
    return {"trace": float(np.trace(m)), "entries": [float(m[r, c]) for r, c in zip(rows, columns)]}


def vector(v):
    return {"sum": float(v.sum()), "entries": [float(v[c]) for c in picked(len(v))[0]]}


def statistics(x, reference):
    return {"gram": matrix(x.T @ x / len(x)), "cross": matrix(reference.T @ x / len(x)),
            "mean_abs": vector(np.abs(x).mean(0)), "max_abs": vector(np.abs(x).max(0))}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model"); parser.add_argument("text"); parser.add_argument("out")
    args = parser.parse_args()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    ids = tokenizer(open(args.text).read())["input_ids"]
    ends = np.cumsum(LENGTHS)
    sequences = [ids[end - length:end] for end, length in zip(ends, LENGTHS)]
    rounded = copy.deepcopy(model)
    for layer in rounded.model.layers:
        for linear in [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]:
            linear.weight.data = torch.round(linear.weight.data * 32) / 32
    plain, rough = inputs_of(model, sequences), inputs_of(rounded, sequences)
    golden = {"transformers": transformers.__version__, "torch": torch.__version__, "sequences": sequences,
              "plain": [statistics(x, x) for x in plain], "rounded": [statistics(x, r) for x, r in zip(rough, plain)]}
    json.dump(golden, open(args.out, "w"))


if __name__ == "__main__":
    main()
