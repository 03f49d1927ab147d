#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.15.0", "transformers==5.17.0", "numpy"]
# ///
"""Logits of Hugging Face transformers in f32: the reference for the parity tests.

Takes the first conversations of a CoQA-format file, each as one text (story, all questions, all gold answers), and
writes token ids and, for every 16th position and the last one, the whole vocabulary's logits as base64 of f32.

usage: golden_logits.py MODEL DATA OUT.json [--conversations N] [--every K]
"""
import argparse, base64, json
import torch, transformers


def texts(data, count):
    for doc in json.load(open(data))["data"][:count]:
        turns = "".join(f"Q: {q['input_text']}\n\nA: {a['input_text']}\n\n" for q, a in zip(doc["questions"], doc["answers"]))
        yield doc["id"], doc["story"] + "\n\n" + turns


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model"); parser.add_argument("data"); parser.add_argument("out")
    parser.add_argument("--conversations", type=int, default=3); parser.add_argument("--every", type=int, default=16)
    args = parser.parse_args()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    golden = []
    for id, text in texts(args.data, args.conversations):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(ids).logits[0]
        positions = sorted({*range(0, len(logits), args.every), len(logits) - 1})
        packed = [base64.b64encode(logits[p].numpy().astype("<f4").tobytes()).decode() for p in positions]
        golden.append({"id": id, "ids": ids[0].tolist(), "positions": positions, "logits": packed})
    json.dump({"transformers": transformers.__version__, "torch": torch.__version__, "texts": golden}, open(args.out, "w"))


if __name__ == "__main__":
    main()
