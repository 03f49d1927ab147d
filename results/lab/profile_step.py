#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["onnxruntime-gpu", "numpy", "torch"]
# ///
"""Which GPU kernels a decoding step is made of, and how long each takes: stock onnxruntime-gpu runs the graph of
`qonnx bench --save-graph` in the loop of stock_loop.py, under torch.profiler.

A profiler lengthens kernels by some tenths of a microsecond: shares are to be trusted, sums less.

usage: profile_step.py DIR GRAPH [--batch 1] [--prompt 128] [--no-cuda-graph] [--weights stock|fused] [--most 12]
"""
import argparse, collections, os, sys, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import numpy as np
from stock_loop import Package

WARM, STEPS = 32, 20


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir"); parser.add_argument("graph"); parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128); parser.add_argument("--no-cuda-graph", action="store_true")
    parser.add_argument("--weights", choices=("stock", "fused"), default="stock"); parser.add_argument("--most", type=int, default=12)
    args = parser.parse_args()
    args.ep, args.threads = "cuda", None
    from torch.profiler import profile, ProfilerActivity
    model = Package(args)
    model.allocate(args.batch, -(-(args.prompt + WARM + STEPS) // 64) * 64)

    def steps(tokens, start, count):
        for past in range(start, start + count):
            tokens = model.run(tokens, past)
        return tokens

    tokens = model.run(np.random.default_rng(0).integers(3, 256, (args.batch, args.prompt)), 0)
    tokens = steps(tokens, args.prompt, WARM)
    started = time.perf_counter()
    steps(tokens, args.prompt + WARM, STEPS)
    wall = (time.perf_counter() - started) / STEPS * 1e3
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        steps(tokens, args.prompt + WARM, STEPS)
    total, count = collections.Counter(), collections.Counter()
    for event in profiled.events():
        total[event.name] += event.device_time
        count[event.name] += 1
    print(f"batch {args.batch}: {wall:.3f} ms a step, {sum(total.values()) / STEPS / 1e3:.3f} ms of kernels in {sum(count.values()) / STEPS:.0f} launches")
    for name, microseconds in total.most_common(args.most):
        print(f"{microseconds / STEPS:9.1f} us {count[name] / STEPS:6.1f} x {microseconds / count[name]:8.2f}  {name[:120]}")


if __name__ == "__main__":
    main()
