#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["llmcompressor==0.14.*", "datasets"]
# ///
"""GPTQ INT4 in groups of 128 by llm-compressor and by qonnx: the same checkpoint, calibration token ids and machine, in turns.

    python results/lab/time_llm_compressor.py QONNX coqa-45m PEERS/calibration.json WORK [--turns 2] [--json OUT]

llm-compressor's time is that of `oneshot` on a loaded model, calibration, rounding and no saving; qonnx's is that of the whole
command `qonnx export`, loading, hashing and writing included. Both get the machine's physical cores.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("qonnx", "checkpoint", "calibration", "work"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--oneshot", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.oneshot:
        return print(json.dumps(oneshot_seconds(args)))
    args.work.mkdir(parents=True, exist_ok=True)
    took = {"qonnx": [], "llm-compressor": []}
    for turn in range(args.turns):
        for name, run in (("qonnx", qonnx_seconds), ("llm-compressor", other_process)):
            took[name].append(run(args))
            print(f"turn {turn + 1}, {name}: {took[name][-1]:.1f} s", flush=True)
    median = {name: statistics.median(seconds) for name, seconds in took.items()}
    ratio = median["llm-compressor"] / median["qonnx"]
    print(f"medians: qonnx {median['qonnx']:.1f} s, llm-compressor {median['llm-compressor']:.1f} s, {ratio:.1f} times as long")
    if args.json:
        args.json.write_text(json.dumps({"seconds": took, "median": median, "ratio": ratio}, indent=1) + "\n")


def qonnx_seconds(args):
    out = args.work / "qonnx-gptq"
    shutil.rmtree(out, ignore_errors=True)
    flags = ["--method", "gptq", "--bits", "4", "--group-size", "128", "--dtype", "f32", "--calibration", args.calibration]
    started = time.perf_counter()
    subprocess.run([args.qonnx, "export", args.checkpoint, *flags, "-o", out], check=True, capture_output=True)
    return time.perf_counter() - started


def other_process(args):
    """In a process of its own, so that neither has the other's memory or threads."""
    command = [sys.executable, __file__, args.qonnx, args.checkpoint, args.calibration, args.work, "--oneshot"]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def oneshot_seconds(args):
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from transformers import AutoModelForCausalLM

    ids = json.loads(args.calibration.read_text())
    ids = ids if isinstance(ids, list) else ids["sequences"]
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})
    model = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32)
    recipe = GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"])
    started = time.perf_counter()
    oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=max(map(len, ids)), num_calibration_samples=len(ids))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
