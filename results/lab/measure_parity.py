#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.15.0", "transformers==5.17.0", "onnxruntime==1.32.0", "onnx==1.23.2", "numpy"]
# ///
"""Compares an f32 artifact with Hugging Face transformers: logits, greedy answers, questions per second.

Exports MODEL in f32, runs transformers' generate one prompt at a time over the first TURNS turns of DATA, then qonnx
over the whole file, on the same two threads. Prints one JSON object.

usage: measure_parity.py QONNX MODEL DATA WORK_DIR [--turns 200] [--answers FILE] [--conversations 8]
       --answers: answers of transformers for every turn, written by tests/goldens/make/golden_answers.py, to compare instead
"""
import argparse, base64, json, os, subprocess, sys
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDENS = os.path.join(HERE, "../../tests/goldens/make")


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def largest_logit_difference(args, artifact):
    golden, prompts, logits = (os.path.join(args.work, name) for name in ("logits.json", "prompts.json", "logits.npy"))
    run(sys.executable, f"{GOLDENS}/golden_logits.py", args.model, args.data, golden, "--conversations", args.conversations, "--every", 8)
    texts = json.load(open(golden))["texts"]
    json.dump([text["ids"] for text in texts], open(prompts, "w"))
    run(sys.executable, f"{HERE}/stock_runtime.py", artifact, "--prompts", prompts, "--new-tokens", 1, "--logits", logits)
    ours, largest, positions, start = np.load(logits), 0.0, 0, 0
    for text in texts:
        for position, packed in zip(text["positions"], text["logits"]):
            theirs = np.frombuffer(base64.b64decode(packed), "<f4")
            largest = max(largest, float(np.abs(ours[start + position] - theirs).max()))
            positions += 1
        start += len(text["ids"])
    return largest, positions


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("qonnx"); parser.add_argument("model"); parser.add_argument("data"); parser.add_argument("work")
    parser.add_argument("--turns", type=int, default=200); parser.add_argument("--answers"); parser.add_argument("--conversations", type=int, default=8)
    args = parser.parse_args()
    os.makedirs(args.work, exist_ok=True)
    artifact = os.path.join(args.work, "f32")
    if not os.path.exists(artifact):
        run(args.qonnx, "export", args.model, "--bits", 16, "--dtype", "f32", "-o", artifact)
    largest, positions = largest_logit_difference(args, artifact)

    timed = os.path.join(args.work, "transformers.jsonl")
    theirs_speed = json.loads(run(sys.executable, f"{GOLDENS}/golden_answers.py", args.model, args.data, timed, "--limit", args.turns, "--threads", 2))
    predictions = os.path.join(args.work, "qonnx.jsonl")
    if os.path.exists(predictions): os.remove(predictions)
    report = json.loads(run(args.qonnx, "eval", artifact, "--task", "coqa", "--protocol", "official", "--data", args.data,
                            "--predictions", predictions, "--threads", 2, "--json"))
    theirs = [json.loads(line) for line in open(args.answers or timed)]
    ours = {(line["id"], line["turn_id"]): line["text"] for line in map(json.loads, open(predictions))}
    same = sum(ours[line["id"], line["turn_id"]] == line["text"] for line in theirs)
    print(json.dumps({
        "largest_logit_difference": largest, "positions": positions, "answers_compared": len(theirs), "answers_identical": same,
        "transformers_questions_per_second": theirs_speed["questions_per_second"], "transformers_turns": theirs_speed["turns"],
        "qonnx_questions_per_second": report["questions_per_second"], "questions": report["questions"],
        "ratio": report["questions_per_second"] / theirs_speed["questions_per_second"], "f1": report["f1"], "em": report["em"]}))


if __name__ == "__main__":
    main()
