#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["onnxruntime==1.32.0", "numpy"]
# ///
"""Does `qonnx bench` tell the truth? The same graph of the same artifact, in the same loop with the same options, driven by
stock onnxruntime and by `qonnx bench`, several turns each, every turn a process of its own.

The loop: prompts are read in one run into caches that are bound as past and as present, then each step feeds the tokens of
the step before. `qonnx bench --save-graph` gives the graph (the artifact's own with the greedy choice inside). On CUDA steps
are replayed from a CUDA graph on both sides, or on neither with --no-cuda-graph; there the Python package is onnxruntime-gpu,
and qonnx runs the library that lies in it.

Also timed, for information: the artifact's own graph in the naive loop (`session.run`, logits to the host, argmax there,
caches passed back and forth).

usage: honest_timing.py QONNX DIR [--ep cpu|cuda] [--no-cuda-graph] [--weights stock|fused] [--batch 1,16] [--prompt 128] [--gen 32] [--turns 3]
                        [--repeats 10] [--threads N] [--slice SECONDS] [--bar 0.03] [--json OUT]
       honest_timing.py --over OUTPUT...    the verdict over the turns of several runs, from what they printed

Exit code 1 if a ratio is farther from 1 than the bar: the median over the turns of the ratio of both processes' medians, with
its 95 % interval from six turns on. On a machine that does other work too, the ratio of the 10th percentiles of all samples,
printed beside it, is disturbed less. On the CPU both sides run with glibc's huge pages, unless GLIBC_TUNABLES says otherwise.

On CUDA both processes of a turn are alive, come to each point of the grid together, and there SIGSTOP and SIGCONT let one
work while the other rests, in turns of --slice seconds (0.2), so that both see the same seconds of a host whose speed
changes. A sample that a stop falls into is an outlier, so a slice should hold some twenty samples or more; medians do not
mind the few that are hit. --slice 0, the default on the CPU, runs the processes one after the other. Where cores differ,
`taskset -c 0-3 scripts/honest_timing.py …` gives both sides the same ones.
"""
import argparse, json, math, os, re, signal, statistics, subprocess, sys, tempfile, threading, time
import numpy as np

CAPACITY_STEP = 64  # as src/runtime/cache.rs
POINT_BEGINS = re.compile(r"\bpoint \d+ of \d+: batch ")  # what both sides say on stderr, qonnx with -v
SLICE_ON_CUDA = 0.2
BEYOND = "   beyond the bar"
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
        dtype = lambda value: np.float16 if "float16" in value.type else np.float32
        cache = lambda value: self.value(np.zeros((rows, value.shape[1], capacity, value.shape[3]), dtype(value)))
        self.caches = {value.name: cache(value) for value in self.session.get_inputs() if value.name.startswith("past_key_values.")}
        self.capacity, self.runs = capacity, {}

    def value(self, array, device=None):
        return self.ort.OrtValue.ortvalue_from_numpy(array, device or self.device, 0)

    def run(self, ids, past):
        rows, length = ids.shape
        if length not in self.runs:
            self.runs[length] = (self.recorded if self.replays and length == 1 else self.launched)(rows, length)
        run = self.runs[length]
        run.ids.update_inplace(ids)
        run.ends.fill(past + length - 1)
        run.seqlens_k.update_inplace(run.ends)
        if run.total is not None:
            run.length.fill(past + length)
            run.total.update_inplace(run.length)
        self.session.run_with_iobinding(run.binding, run.options)
        return run.tokens.numpy()

    def launched(self, rows, length):
        run = Run(self, rows, length, self.numbered(-1), tokens_on="cpu")
        run.total = self.value(run.length, "cpu")
        run.binding.bind_ortvalue_input("total_sequence_length", run.total)
        return run

    def recorded(self, rows, length):
        self.recordings += 1
        run = Run(self, rows, length, self.numbered(self.recordings), tokens_on=self.device)
        run.total = None  # stays as it is when the steps are recorded
        run.binding.bind_cpu_input("total_sequence_length", np.array(self.capacity, np.int32))
        return run


class Run:
    """What runs of one shape read and write, bound once and written in place. To make and bind numpy arrays anew costs the
    interpreter some 0.15 ms a run, which would be measured too."""

    def __init__(self, package, rows, length, options, tokens_on):
        self.options, self.binding = options, package.binding()
        self.ends, self.length = np.zeros(rows, np.int32), np.array(0, np.int32)
        self.ids, self.seqlens_k = package.value(np.zeros((rows, length), np.int64)), package.value(self.ends)
        self.tokens = package.value(np.zeros((rows, 1), np.int64), tokens_on)
        self.binding.bind_ortvalue_input("input_ids", self.ids)
        self.binding.bind_ortvalue_input("seqlens_k", self.seqlens_k)
        self.binding.bind_ortvalue_input("positions", package.value(np.full((rows, 1, 1), length - 1, np.int64)))
        self.binding.bind_ortvalue_output("next_tokens", self.tokens)


class Naive:
    """The artifact's own graph, as most programs drive it."""

    def __init__(self, args):
        args.replays = False  # logits and caches go through the host
        self.session = session(os.path.join(args.dir, "model.onnx"), {}, args)
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]

    def allocate(self, rows, capacity):
        self.caches = {}

    def run(self, ids, past):
        rows, length = ids.shape
        if length > 1:
            empty = lambda value: np.zeros((rows, value.shape[1], 0, value.shape[3]), np.float16 if "float16" in value.type else np.float32)
            self.caches = {name: empty(value) for name, value in self.inputs.items() if name.startswith("past_key_values.")}
        total = past + length
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
        started = time.perf_counter()
        tokens = model.run(ids, past)
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
    points = []
    for number, (batch, prompt) in enumerate(grid(args), 1):
        if args.slice:
            print(f"point {number} of {len(grid(args))}: batch {batch}, prompt {prompt}", file=sys.stderr, flush=True)
        points.append([batch, prompt, sample(model, batch, prompt, args.gen, args.repeats)])
    print(json.dumps(points))


def grid(args):
    """Smaller points first, as qonnx does."""
    return sorted({(batch, prompt) for batch in args.batch for prompt in args.prompt},
                  key=lambda point: (point[0] * (point[1] + args.gen), *point))


def stock_command(args, graph, kind):
    return [sys.executable, __file__, args.qonnx, args.dir, "--child", kind, "--graph", graph, "--ep", args.ep,
            "--gen", str(args.gen), "--repeats", str(args.repeats if kind == "stock" else NAIVE_REPEATS), "--batch", ",".join(map(str, args.batch)),
            "--prompt", ",".join(map(str, args.prompt)), "--slice", str(args.slice if kind == "stock" else 0)] + shared_flags(args)


def shared_flags(args):
    return (["--threads", str(args.threads)] if args.threads else []) + (["--no-cuda-graph"] if args.no_cuda_graph else []) + ["--weights", args.weights]


def stock_points(out):
    return {(batch, prompt): times for batch, prompt, times in json.loads(out)}


def our_command(args):
    # A confidence that is never reached: as many repeats and steps as the other side.
    command = [args.qonnx, "bench", args.dir, "--ep", args.ep, "--json", "--gen", str(args.gen),
               "--batch", ",".join(map(str, args.batch)), "--prompt", ",".join(map(str, args.prompt)), "--warmup", "2",
               "--min-repeats", str(args.repeats), "--max-repeats", str(args.repeats), "--confidence", "0.000001"]
    return command + (["-v"] if args.slice else []) + shared_flags(args)


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


class Side:
    """A process that works only while it is told to, and says on stderr when a point begins."""

    def __init__(self, command):
        self.command, self.out, self.begun = command, tempfile.TemporaryFile(), 0
        self.process = subprocess.Popen(command, stdout=self.out, stderr=subprocess.PIPE, text=True)
        self.process.send_signal(signal.SIGSTOP)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            if POINT_BEGINS.search(line):
                self.begun += 1
            else:
                sys.stderr.write(line)

    def is_at(self, point):
        return self.begun == point and self.process.poll() is None

    def work(self, seconds):
        self.process.send_signal(signal.SIGCONT)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGSTOP)

    def work_until(self, point):
        self.process.send_signal(signal.SIGCONT)
        while self.begun < point and self.process.poll() is None:
            time.sleep(0.002)
        self.process.send_signal(signal.SIGSTOP)

    def result(self):
        self.process.send_signal(signal.SIGCONT)
        self.reader.join()
        if self.process.wait() != 0:
            raise subprocess.CalledProcessError(self.process.returncode, self.command)
        self.out.seek(0)
        return self.out.read()


def side_by_side(commands, seconds, points):
    """What each command prints. Both come to a point one after the other; then one of them works at any time, `seconds` long."""
    sides = [Side(command) for command in commands]
    try:
        for point in range(1, points + 1):
            for side in sides:
                side.work_until(point)
            while all(side.is_at(point) for side in sides):
                for side in sides:
                    side.work(seconds)
        return [side.result() for side in sides]
    finally:
        for side in sides:
            side.process.kill()  # one that was stopped would stay for ever


def main():
    numbers = lambda text: [int(number) for number in text.split(",")]
    if sys.argv[1:2] == ["--over"]:
        return over_runs(sys.argv[2:], 0.03)
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
    if args.slice is None:
        args.slice = SLICE_ON_CUDA if args.ep == "cuda" else 0
    if args.child:
        return child(args)
    # Both sides run the package's own library.
    import glob, onnxruntime
    found = glob.glob(os.path.join(os.path.dirname(onnxruntime.__file__), "capi", "libonnxruntime.so.*"))
    if not found:
        sys.exit("the onnxruntime package brings no libonnxruntime.so for qonnx to load; install onnxruntime-gpu for CUDA")
    os.environ["ORT_DYLIB_PATH"] = found[0]
    os.environ.pop("RUST_LOG", None)  # it would hide where points begin
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
                ours, stock = side_by_side(commands, args.slice, len(grid(args)))
            else:
                ours, stock = map(alone, commands)
            turns["qonnx"].append(our_points(ours))
            turns["stock"].append(stock_points(stock))
            if turn == 0:
                turns["naive"].append(stock_points(alone(stock_command(args, graph, "naive"))))
            print(f"turn {turn + 1} of {args.turns} done", file=sys.stderr)
    rows = [compared(turns, point, what, args.bar) for point in turns["qonnx"][0] for what in ("prefill", "decode")]
    how = (" with a CUDA graph" if args.replays else "") + (", fused weights" if args.weights == "fused" else "")
    print(f"{args.dir} on {args.ep}{how}, {args.turns} turns each, medians in ms; bar ±{args.bar:.0%}\n")
    print(f"{'batch':>5} {'prompt':>6}  {'':7} {'qonnx':>9} {'stock':>9} {'ratio':>7} {'95 %':>11} {'at p10':>7}  {'naive':>9}  ratio of each turn")
    for row in rows:
        each = " ".join(f"{ratio:.3f}" for ratio in row["ratio_of_each_turn"])
        print(f"{row['batch']:>5} {row['prompt']:>6}  {row['what']:7} {row['qonnx_ms']:9.3f} {row['stock_ms']:9.3f} {row['ratio']:7.3f} {shown(row['ci95'])} "
              f"{row['ratio_of_10th_percentiles']:7.3f}  {row['naive_ms']:9.3f}  {each}{'' if row['within'] else BEYOND}")
    passed = all(row["within"] for row in rows)
    if args.json:
        json.dump({"artifact": args.dir, "ep": args.ep, "cuda_graph": args.replays, "weights": args.weights, "slice_seconds": args.slice, "bar": args.bar,
                   "turns": args.turns, "passed": passed, "rows": rows}, open(args.json, "w"), indent=1)
    sys.exit(0 if passed else 1)


def compared(turns, point, what, bar):
    """Both sides' times of a point: the verdict over the turns, and what all samples together say."""
    times = {kind: [ms for points in of_kind for ms in points[point][what]] for kind, of_kind in turns.items()}
    each = [statistics.median(ours[point][what]) / statistics.median(stock[point][what]) for ours, stock in zip(turns["qonnx"], turns["stock"])]
    fast = np.percentile(times["qonnx"], 10) / np.percentile(times["stock"], 10)
    return {"batch": point[0], "prompt": point[1], "what": what} | verdict(each, bar) | {
        "ratio_of_10th_percentiles": fast, "ratio_of_each_turn": each} | {f"{kind}_ms": statistics.median(of_kind) for kind, of_kind in times.items()}


def verdict(ratios, bar):
    """The median of the turns' ratios, and whether it is within the bar. A process is fast or slow as a whole, so a turn is one
    sample, however many repeats it has."""
    ratio = statistics.median(ratios)
    return {"ratio": ratio, "ci95": interval(ratios), "within": abs(ratio - 1) <= bar}


def interval(values):
    """At least 95 % for the median, by order statistics; None of fewer than six values."""
    ordered, count = sorted(values), len(values)
    cut = 0  # values that may lie outside on either side
    while 2 * sum(math.comb(count, below) for below in range(cut + 1)) / 2**count <= 0.05:
        cut += 1
    return [ordered[cut - 1], ordered[-cut]] if cut else None


def shown(ci95):
    return f"{ci95[0]:.3f}-{ci95[1]:.3f}" if ci95 else " " * 11


def over_runs(files, bar):
    """The verdict over the turns of several runs, from what each printed."""
    ratios, how = {}, ""
    for file in files:
        for line in open(file):
            if header := re.search(r" on (.*), \d+ turns each", line):
                how = header[1]
            elif row := re.match(r" *(\d+) +(\d+)  (prefill|decode) ", line):
                each = re.split(r" {2,}", line.rstrip().removesuffix(BEYOND))[-1]
                ratios.setdefault((how, int(row[1]), int(row[2]), row[3]), []).extend(map(float, each.split()))
    print(f"{'':34} {'batch':>5} {'prompt':>6}  {'':7} {'turns':>5} {'ratio':>7} {'95 %':>11}  half of the turns")
    passed = True
    for (how, batch, prompt, what), each in ratios.items():
        judged = verdict(each, bar)
        passed &= judged["within"]
        low, high = np.percentile(each, [25, 75])
        print(f"{how:34} {batch:>5} {prompt:>6}  {what:7} {len(each):>5} {judged['ratio']:7.3f} {shown(judged['ci95'])}  {low:.3f} to {high:.3f}{'' if judged['within'] else BEYOND}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(f"{' '.join(failed.cmd)}: exit code {failed.returncode}; its own message is above")
