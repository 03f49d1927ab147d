#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["onnxruntime==1.32.0", "numpy"]
# ///
"""Does `qonnx bench` tell the truth? The same graph of the same artifact, in the same loop with the same options, driven by
stock onnxruntime, in turns with `qonnx bench`: A B A B ..., each turn a process of its own.

The loop: prompts are read in one run into caches that are bound as past and as present, then each step feeds the tokens of
the step before. `qonnx bench --save-graph` gives the graph (the artifact's own with the greedy choice inside). On CUDA steps
are replayed from a CUDA graph on both sides, or on neither with --no-cuda-graph; there the Python package is onnxruntime-gpu,
and qonnx runs the library that lies in it.

Also timed, for information: the artifact's own graph in the naive loop (`session.run`, logits to the host, argmax there,
caches passed back and forth).

usage: honest_timing.py QONNX DIR [--ep cpu|cuda] [--no-cuda-graph] [--weights stock|fused] [--batch 1,16] [--prompt 128] [--gen 32] [--turns 3]
                        [--repeats 10] [--threads N] [--slice SECONDS] [--bar 0.03] [--json OUT]
Exit code 1 if a ratio of medians is farther from 1 than the bar. On a machine that does other work too, the ratio of the
10th percentiles, printed beside it, is disturbed less. On the CPU both sides run with glibc's huge pages, unless
GLIBC_TUNABLES says otherwise.

--slice is for a machine whose speed changes within a turn: both processes of a turn are alive, and SIGSTOP and SIGCONT let
one work while the other rests, in turns of so many seconds, so that both see the same minutes. A sample that a stop falls
into is an outlier, so a slice should hold some twenty samples or more; medians do not mind the few that are hit.
"""
import argparse, json, os, signal, statistics, subprocess, sys, tempfile, time
import numpy as np

CAPACITY_STEP = 64  # as src/runtime/cache.rs
NAIVE_REPEATS = 3


def session(model, entries, args):
    import onnxruntime as ort
    options = ort.SessionOptions()
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    if args.threads:
        options.intra_op_num_threads = args.threads
    if args.ep == "cpu":
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    cuda = {"device_id": "0", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested", "enable_cuda_graph": str(int(args.replays))}
    made = ort.InferenceSession(model, options, providers=[("CUDAExecutionProvider", cuda)])
    if made.get_providers()[0] != "CUDAExecutionProvider":
        sys.exit("onnxruntime has no CUDA: it fell back to the CPU")
    return made


class Package:
    """The Python package with the options of src/runtime/session.rs, caches bound as src/runtime/decoder.rs binds them, steps
    recorded and replayed as src/runtime/replay.rs does."""

    def __init__(self, args):
        import onnxruntime as ort
        entries = {"session.model_external_initializers_file_folder_path": args.dir}
        if args.weights == "fused":
            entries |= {"session.qdq_matmulnbits_accuracy_level": "0"} | ({"ep.cuda.fpa_intb_gemm": "1"} if args.ep == "cuda" else {})
        if args.ep == "cuda":
            entries |= {"session.use_device_allocator_for_initializers": "1", "session.disable_cpu_ep_fallback": "1"}
        self.ort, self.device, self.replays = ort, args.ep, args.replays
        self.session = session(open(args.graph, "rb").read(), entries, args)
        self.recordings = 0

    def numbered(self, number):
        options = self.ort.RunOptions()
        if self.replays:
            options.add_run_config_entry("gpu_graph_id", str(number))
        return options

    def binding(self):
        binding = self.session.io_binding()
        for name, cache in self.caches.items():
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), cache)
        return binding

    def allocate(self, rows, capacity):
        OrtValue = self.ort.OrtValue
        dtype = lambda value: np.float16 if "float16" in value.type else np.float32
        cache = lambda value: OrtValue.ortvalue_from_numpy(np.zeros((rows, value.shape[1], capacity, value.shape[3]), dtype(value)), self.device, 0)
        self.caches = {value.name: cache(value) for value in self.session.get_inputs() if value.name.startswith("past_key_values.")}
        self.eager, self.not_recorded = self.binding(), self.numbered(-1)
        self.tokens = OrtValue.ortvalue_from_numpy(np.zeros((rows, 1), np.int64))
        self.eager.bind_ortvalue_output("next_tokens", self.tokens)
        if self.replays:
            self.recordings += 1
            self.step, self.recorded = self.binding(), self.numbered(self.recordings)
            on_device = lambda array: OrtValue.ortvalue_from_numpy(array, self.device, 0)
            self.step_ids, self.step_tokens = (on_device(np.zeros((rows, 1), np.int64)) for _ in range(2))
            self.step_seqlens_k = on_device(np.zeros(rows, np.int32))
            self.step.bind_ortvalue_input("input_ids", self.step_ids)
            self.step.bind_ortvalue_input("seqlens_k", self.step_seqlens_k)
            self.step.bind_cpu_input("total_sequence_length", np.array(capacity, np.int32))
            self.step.bind_cpu_input("positions", np.zeros((rows, 1, 1), np.int64))
            self.step.bind_ortvalue_output("next_tokens", self.step_tokens)

    def run(self, ids, seqlens_k, total, positions):
        if self.replays and ids.shape[1] == 1:
            self.step_ids.update_inplace(ids)
            self.step_seqlens_k.update_inplace(seqlens_k)
            self.session.run_with_iobinding(self.step, self.recorded)
            return self.step_tokens.numpy()
        binding = self.eager
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("seqlens_k", seqlens_k)
        binding.bind_cpu_input("total_sequence_length", total)
        binding.bind_cpu_input("positions", positions)
        self.session.run_with_iobinding(binding, self.not_recorded)
        return self.tokens.numpy()


class Naive:
    """The artifact's own graph, as most programs drive it."""

    def __init__(self, args):
        args.replays = False  # logits and caches go through the host
        self.session = session(os.path.join(args.dir, "model.onnx"), {}, args)
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]

    def allocate(self, rows, capacity):
        self.caches = {}

    def run(self, ids, seqlens_k, total, positions):
        rows, length = ids.shape
        if length > 1:
            empty = lambda value: np.zeros((rows, value.shape[1], 0, value.shape[3]), np.float16 if "float16" in value.type else np.float32)
            self.caches = {name: empty(value) for name, value in self.inputs.items() if name.startswith("past_key_values.")}
        total = int(total)
        feed = {"input_ids": ids, "attention_mask": np.ones((rows, total), np.int64),
                "position_ids": np.tile(np.arange(total - length, total, dtype=np.int64), (rows, 1)), **self.caches}
        out = dict(zip(self.outputs, self.session.run(None, {name: feed[name] for name in self.inputs})))
        self.caches = {name: out[name.replace("past_key_values", "present")] for name in self.caches}
        return out["logits"][:, -1:].argmax(-1)


def sample(model, batch, prompt, new_tokens, repeats, vocabulary=256):
    """Milliseconds of each prefill and of each step; the loop of src/bench/point.rs."""
    model.allocate(batch, -(-(prompt + new_tokens - 1) // CAPACITY_STEP) * CAPACITY_STEP)
    ids = np.random.default_rng(0).integers(3, vocabulary, (batch, prompt))
    prefill, decode = [], []

    def timed(times, ids, past):
        length = ids.shape[1]
        started = time.perf_counter()
        # Inputs are made inside the timed region, as qonnx makes them.
        tokens = model.run(np.ascontiguousarray(ids, np.int64), np.full(batch, past + length - 1, np.int32),
                           np.array(past + length, np.int32), np.full((batch, 1, 1), length - 1, np.int64))
        times.append((time.perf_counter() - started) * 1e3)
        return tokens

    for repeat in range(2 + repeats):
        if repeat == 2:  # the first two warm up
            prefill.clear(), decode.clear()
        tokens = timed(prefill, ids, 0)
        for past in range(prompt, prompt + new_tokens - 1):
            tokens = timed(decode, tokens, past)
    return {"prefill": prefill, "decode": decode}


def child(args):
    model = {"naive": Naive, "stock": Package}[args.child](args)
    points = [(batch, prompt) for batch in args.batch for prompt in args.prompt]
    print(json.dumps([[batch, prompt, sample(model, batch, prompt, args.gen, args.repeats)] for batch, prompt in points]))


def stock_command(args, graph, kind):
    return [sys.executable, __file__, args.qonnx, args.dir, "--child", kind, "--graph", graph, "--ep", args.ep,
            "--gen", str(args.gen), "--repeats", str(args.repeats if kind == "stock" else NAIVE_REPEATS), "--batch", ",".join(map(str, args.batch)),
            "--prompt", ",".join(map(str, args.prompt))] + shared_flags(args)


def shared_flags(args):
    return (["--threads", str(args.threads)] if args.threads else []) + (["--no-cuda-graph"] if args.no_cuda_graph else []) + ["--weights", args.weights]


def stock_points(out):
    return {(batch, prompt): times for batch, prompt, times in json.loads(out)}


def our_command(args):
    # A confidence that is never reached: as many repeats and steps as the other side.
    command = [args.qonnx, "bench", args.dir, "--ep", args.ep, "--json", "--gen", str(args.gen),
               "--batch", ",".join(map(str, args.batch)), "--prompt", ",".join(map(str, args.prompt)), "--warmup", "2",
               "--min-repeats", str(args.repeats), "--max-repeats", str(args.repeats), "--confidence", "0.000001"]
    return command + shared_flags(args)


def our_points(out):
    points = {}
    for point in json.loads(out)["points"]:
        if point["outcome"]["outcome"] != "measured":
            sys.exit(f"batch {point['batch']}, prompt {point['prompt_tokens']}: {point['outcome']['message']}")
        times = {"prefill": point["outcome"]["prefill_ms"]["values"], "decode": point["outcome"]["decode_ms_per_token"]["values"]}
        points[point["batch"], point["prompt_tokens"]] = times
    return points


def alone(command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def side_by_side(commands, seconds):
    """What each command prints; one of them works at any time, `seconds` long, until one has ended."""
    files = [tempfile.TemporaryFile() for _ in commands]
    processes = [subprocess.Popen(command, stdout=file) for command, file in zip(commands, files)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    while all(process.poll() is None for process in processes):
        for process in processes:
            process.send_signal(signal.SIGCONT)
            time.sleep(seconds)
            process.send_signal(signal.SIGSTOP)
    outputs = []
    for process, file, command in zip(processes, files, commands):
        process.send_signal(signal.SIGCONT)
        if process.wait() != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
        file.seek(0)
        outputs.append(file.read())
    return outputs


def main():
    numbers = lambda text: [int(number) for number in text.split(",")]
    parser = argparse.ArgumentParser()
    parser.add_argument("qonnx"); parser.add_argument("dir"); parser.add_argument("--ep", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-cuda-graph", action="store_true"); parser.add_argument("--weights", choices=("stock", "fused"), default="stock")
    parser.add_argument("--batch", type=numbers, default=[1, 16]); parser.add_argument("--prompt", type=numbers, default=[128])
    parser.add_argument("--gen", type=int, default=32); parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=10); parser.add_argument("--threads", type=int)
    parser.add_argument("--slice", type=float); parser.add_argument("--bar", type=float, default=0.03); parser.add_argument("--json")
    parser.add_argument("--child", choices=("stock", "naive"), help=argparse.SUPPRESS); parser.add_argument("--graph", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.replays = args.ep == "cuda" and not args.no_cuda_graph
    if args.child:
        return child(args)
    # Both sides run the package's own library.
    import glob, onnxruntime
    found = glob.glob(os.path.join(os.path.dirname(onnxruntime.__file__), "capi", "libonnxruntime.so.*"))
    if not found:
        sys.exit("the onnxruntime package brings no libonnxruntime.so for qonnx to load; install onnxruntime-gpu for CUDA")
    os.environ["ORT_DYLIB_PATH"] = found[0]
    if args.ep == "cpu":
        # Where a process's small pages happen to lie moves a decoding step by 5 % and more; both sides get huge ones.
        os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    kinds = ["qonnx", "stock", "naive"]
    turns = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as scratch:
        graph = os.path.join(scratch, "decode.onnx")
        alone([args.qonnx, "bench", args.dir, "--ep", args.ep, "--json", "--save-graph", graph, "--gen", "2", "--batch", "1",
               "--prompt", "8", "--warmup", "0", "--min-repeats", "1", "--max-repeats", "1"])
        for turn in range(args.turns):
            commands = [our_command(args), stock_command(args, graph, "stock")]
            if args.slice:
                ours, stock = side_by_side(commands, args.slice)
            else:
                ours, stock = map(alone, commands)
            turns["qonnx"].append(our_points(ours))
            turns["stock"].append(stock_points(stock))
            if turn == 0:
                turns["naive"].append(stock_points(alone(stock_command(args, graph, "naive"))))
            print(f"turn {turn + 1} of {args.turns} done", file=sys.stderr)
    rows, passed = [], True
    for batch, prompt in turns["qonnx"][0]:
        for what in ("prefill", "decode"):
            median = {kind: statistics.median(ms for points in turns[kind] for ms in points[batch, prompt][what]) for kind in kinds}
            ratio = median["qonnx"] / median["stock"]
            within = abs(ratio - 1) <= args.bar
            passed &= within
            fast = {kind: np.percentile([ms for points in turns[kind] for ms in points[batch, prompt][what]], 10) for kind in kinds}
            each = [statistics.median(a[batch, prompt][what]) / statistics.median(b[batch, prompt][what])
                    for a, b in zip(turns["qonnx"], turns["stock"])]
            rows.append({"batch": batch, "prompt": prompt, "what": what, "ratio": ratio, "ratio_of_10th_percentiles": fast["qonnx"] / fast["stock"], "ratio_of_each_turn": each, "within": within} | {f"{kind}_ms": ms for kind, ms in median.items()})
    how = " with a CUDA graph" if args.replays else ""
    print(f"{args.dir} on {args.ep}{how}, {args.turns} turns each, medians in ms; bar ±{args.bar:.0%}\n")
    print(f"{'batch':>5} {'prompt':>6}  {'':7} {'qonnx':>9} {'stock':>9} {'ratio':>7} {'at p10':>7}  {'naive':>9}  ratio of each turn")
    for row in rows:
        naive = f"{row['naive_ms']:9.3f}"
        each = " ".join(f"{ratio:.3f}" for ratio in row["ratio_of_each_turn"])
        print(f"{row['batch']:>5} {row['prompt']:>6}  {row['what']:7} {row['qonnx_ms']:9.3f} {row['stock_ms']:9.3f} {row['ratio']:7.3f} {row['ratio_of_10th_percentiles']:7.3f}  {naive}  {each}"
              f"{'' if row['within'] else '   beyond the bar'}")
    if args.json:
        json.dump({"artifact": args.dir, "ep": args.ep, "cuda_graph": args.replays, "bar": args.bar, "turns": args.turns, "passed": passed, "rows": rows}, open(args.json, "w"), indent=1)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
