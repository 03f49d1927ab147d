#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["onnxruntime==1.32.0", "numpy"]
# ///
"""Paired times of several graphs as any other program runs them: stock onnxruntime, ids and mask from the host, caches left on the
device, all logits. Each graph stands in its own folder with its data; the graphs take turns within each round.

usage: graph_forms.py GRAPH... [--ep cpu|cuda] [--batch 1,16] [--prompt 512] [--gen 32] [--rounds 8] [--pad N] [--threads N]

A line for each batch and graph: medians of prefill and of a step in milliseconds, and the median over rounds of the ratio to the first
graph of the same round. --pad puts N pads in front of the second half of the rows.
"""
import argparse, statistics, time
import numpy as np, onnxruntime as ort


class Loop:
    def __init__(self, path, args):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if args.threads:
            options.intra_op_num_threads = args.threads
        provider = "CUDAExecutionProvider" if args.ep == "cuda" else "CPUExecutionProvider"
        self.session, self.device = ort.InferenceSession(path, options, providers=[provider]), args.ep
        if self.session.get_providers()[0] != provider:
            raise SystemExit(f"onnxruntime has no {provider}")
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.presents = [value.name for value in self.session.get_outputs() if value.name.startswith("present.")]

    def run(self, ids, mask, caches):
        """The last logits' largest on the host, and the new caches where they are."""
        binding = self.session.io_binding()
        feeds = {"input_ids": ids, "attention_mask": mask}
        if "position_ids" in self.inputs:
            feeds["position_ids"] = np.maximum(np.cumsum(mask, 1) - 1, 0)[:, -ids.shape[1]:]
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name, cache in caches.items():
            binding.bind_ortvalue_input(name, cache)
        for name in ["logits", *self.presents]:
            binding.bind_output(name, self.device)
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        outputs = dict(zip(["logits", *self.presents], binding.get_outputs()))
        return outputs["logits"], {name.replace("present", "past_key_values"): outputs[name] for name in self.presents}

    def empty(self, rows):
        caches = {}
        for name, value in self.inputs.items():
            if name.startswith("past_key_values."):
                dtype = np.float16 if "float16" in value.type else np.float32
                empty = np.zeros((rows, value.shape[1], 0, value.shape[3]), dtype)
                caches[name] = ort.OrtValue.ortvalue_from_numpy(empty, self.device, 0)
        return caches


def measure(loop, rows, args, rng):
    """Milliseconds of the prompt, and of each step."""
    ids = rng.integers(3, 4000, (rows, args.prompt))
    mask = np.ones((rows, args.prompt), np.int64)
    mask[(rows + 1) // 2:, :args.pad] = 0
    caches, steps = loop.empty(rows), []
    started = time.perf_counter()
    _, caches = loop.run(ids, mask, caches)
    prefill = (time.perf_counter() - started) * 1e3
    for _ in range(args.gen):
        mask = np.concatenate([mask, np.ones((rows, 1), np.int64)], 1)
        started = time.perf_counter()
        _, caches = loop.run(rng.integers(3, 4000, (rows, 1)), mask, caches)
        steps.append((time.perf_counter() - started) * 1e3)
    return prefill, statistics.median(steps)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("graphs", nargs="+", metavar="GRAPH")
    parser.add_argument("--ep", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", default="1")
    for flag, default in (("prompt", 512), ("gen", 32), ("rounds", 8), ("pad", 0), ("threads", 0)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    args = parser.parse_args()
    loops = [Loop(path, args) for path in args.graphs]
    print(f"{'batch':>5} {'prefill ms':>10} {'ratio':>6} {'step ms':>8} {'ratio':>6}  graph")
    for rows in map(int, args.batch.split(",")):
        rounds = []
        for turn in range(args.rounds + 1):
            times = [measure(loop, rows, args, np.random.default_rng(turn)) for loop in loops]
            rounds += [times] if turn else []  # the first warms up
        for at, path in enumerate(args.graphs):
            column = lambda part: statistics.median(times[at][part] for times in rounds)
            ratio = lambda part: statistics.median(times[at][part] / times[0][part] for times in rounds)
            print(f"{rows:>5} {column(0):>10.2f} {ratio(0):>6.3f} {column(1):>8.3f} {ratio(1):>6.3f}  {path}", flush=True)


if __name__ == "__main__":
    main()
