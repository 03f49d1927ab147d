#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.15.0", "transformers==5.17.0"]
# ///
"""Greedy CoQA answers of Hugging Face transformers, one prompt at a time: the reference for parity and for speed.

Every turn of every conversation (official protocol) in lm-evaluation-harness's prompt form, BOS as the tokenizer adds
it, stopped at "\\nQ:", 256 new tokens at most. Writes one JSON object a turn: id, turn_id, prompt_tokens, ids, text.

usage: golden_answers.py MODEL DATA OUT.jsonl [--limit TURNS] [--threads N]
"""
import argparse, json, time
import torch, transformers


class StopAt(transformers.StoppingCriteria):
    """Stops when the decoded continuation holds the stop string, as lm-evaluation-harness does."""

    def __init__(self, tokenizer, prompt_tokens, stop):
        self.tokenizer, self.prompt_tokens, self.stop = tokenizer, prompt_tokens, stop

    def __call__(self, ids, scores, **kwargs):
        text = self.tokenizer.decode(ids[0, self.prompt_tokens:], skip_special_tokens=True)
        return torch.tensor([self.stop in text])


def prompts(data):
    for doc in json.load(open(data))["data"]:
        text = doc["story"] + "\n\n"
        for question, answer in zip(doc["questions"], doc["answers"]):
            text += f"Q: {question['input_text']}\n\nA:"
            yield doc["id"], question["turn_id"], text
            text += f" {answer['input_text']}\n\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model"); parser.add_argument("data"); parser.add_argument("out")
    parser.add_argument("--limit", type=int); parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    turns = list(prompts(args.data))[: args.limit]
    started = time.perf_counter()
    with open(args.out, "w") as out:
        for id, turn_id, prompt in turns:
            ids = tokenizer(prompt, return_tensors="pt")
            tokens = ids["input_ids"].shape[1]
            with torch.no_grad():
                new = model.generate(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], do_sample=False, max_new_tokens=256,
                                     stopping_criteria=[StopAt(tokenizer, tokens, "\nQ:")])[0, tokens:]
            text = tokenizer.decode(new, skip_special_tokens=True).split("\nQ:")[0]
            out.write(json.dumps({"id": id, "turn_id": turn_id, "prompt_tokens": tokens, "ids": new.tolist(), "text": text}) + "\n")
            out.flush()
    seconds = time.perf_counter() - started
    print(json.dumps({"turns": len(turns), "seconds": seconds, "questions_per_second": len(turns) / seconds}))


if __name__ == "__main__":
    main()
