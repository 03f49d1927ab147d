#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["onnxruntime==1.32.0", "numpy"]
# ///
"""Does `qonnx bench` tell the truth? The same graph of the same artifact, in the same loop with the same options, driven by
stock onnxruntime (stock_loop.py) and by `qonnx bench`, several turns each, every turn a process of its own.

The loop: prompts are read into caches that are bound as past and as present, on a GPU in one run, on the CPU each by itself, as
generation reads them; then each step feeds the tokens of the step before. `qonnx bench --save-graph` gives the graph (the artifact's own with the greedy choice inside). On CUDA steps
are replayed from a CUDA graph on both sides, or on neither with --no-cuda-graph; there the Python package is onnxruntime-gpu,
and qonnx runs the library that lies in it. Where runs are launched one by one qonnx binds its inputs anew each time, Python
once. Also timed, for information: the artifact's own graph in the naive loop (`session.run`, logits to the host, argmax there,
caches passed back and forth).

usage: honest_timing.py QONNX DIR [--ep cpu|cuda] [--no-cuda-graph] [--weights stock|fused] [--batch 1,16] [--prompt 128] [--gen 32]
                        [--turns 6] [--repeats 10] [--threads N] [--slice SECONDS] [--bar 0.03] [--json OUT]
       honest_timing.py --over OUTPUT...    the verdict over the turns of several runs, from what they printed

A turn's ratio is that of both processes' medians. A process is fast or slow as a whole, so a turn is one sample however many
repeats it has: many short turns say more than few long ones. Verdict: the 95 % interval of the turns' median ratio lies within
the bar, beyond it, or across it (undecided: more turns). Fewer than six turns have no interval, and are undecided.
Exit code 0 if all points are within, 3 if not. The ratio of the 10th percentiles of all samples is printed beside it: on a
machine that does other work too it is disturbed less. On the CPU both sides run with glibc's huge pages, unless GLIBC_TUNABLES
says otherwise.

On CUDA the two processes of a turn work in alternation, --slice seconds each (0.2; take_turns.py). A sample that a stop falls
into is an outlier, so a slice should be ten samples long or more; medians do not mind the few that are hit. --slice 0, the
default on the CPU, runs them one after the other. Where cores differ, `taskset -c 0-3 results/lab/honest_timing.py ...` gives
both sides the same ones.
"""
import argparse, json, math, os, re, signal, statistics, subprocess, sys, tempfile
import numpy as np
from take_turns import take_turns

NAIVE_REPEATS = 3
SLICE_ON_CUDA = 0.2
SAMPLES_A_SLICE = 10
NOT_WITHIN = 3


def shared_flags(args):
    flags = ["--ep", args.ep, "--batch", ",".join(map(str, args.batch)), "--prompt", ",".join(map(str, args.prompt)),
             "--gen", str(args.gen), "--weights", args.weights]
    return flags + (["--threads", str(args.threads)] if args.threads else []) + (["--no-cuda-graph"] if args.no_cuda_graph else [])


def stock_command(args, graph):
    loop = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stock_loop.py")
    return [sys.executable, loop, args.dir, graph, "--repeats", str(args.repeats)] + shared_flags(args) + (["--say-points"] if args.slice else [])


def naive_command(args, graph):
    return stock_command(argparse.Namespace(**vars(args) | {"repeats": NAIVE_REPEATS, "slice": 0}), graph) + ["--naive"]


def our_command(args):
    # A confidence that is never reached: as many repeats and steps as the other side.
    command = [args.qonnx, "bench", args.dir, "--json", "--warmup", "2", "--min-repeats", str(args.repeats),
               "--max-repeats", str(args.repeats), "--confidence", "0.000001"]
    return command + shared_flags(args) + (["-v"] if args.slice else [])


def stock_points(out):
    return {(batch, prompt): times for batch, prompt, times in json.loads(out)}


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


def measure(args):
    """Of each side, the points of each turn."""
    turns = {"qonnx": [], "stock": [], "naive": []}
    with tempfile.TemporaryDirectory() as scratch:
        graph = os.path.join(scratch, "decode.onnx")
        alone([args.qonnx, "bench", args.dir, "--ep", args.ep, "--json", "--save-graph", graph, "--gen", "2", "--batch", "1",
               "--prompt", "8", "--warmup", "0", "--min-repeats", "1", "--max-repeats", "1"])
        for turn in range(args.turns):
            commands = {"qonnx": our_command(args), "stock": stock_command(args, graph)}
            order = sorted(commands, reverse=turn % 2 == 1)  # neither is always the first
            if args.slice:
                said = take_turns([commands[side] for side in order], args.slice, len(set(args.batch)) * len(set(args.prompt)))
            else:
                said = [alone(commands[side]) for side in order]
            said = dict(zip(order, said))
            turns["qonnx"].append(our_points(said["qonnx"]))
            turns["stock"].append(stock_points(said["stock"]))
            if turn == 0:
                turns["naive"].append(stock_points(alone(naive_command(args, graph))))
            print(f"turn {turn + 1} of {args.turns} done", file=sys.stderr)
    return turns


def compared(turns, point, what, bar):
    """Both sides' times of a point: the verdict over the turns, and what all samples together say."""
    times = {kind: [ms for points in of_kind for ms in points[point][what]] for kind, of_kind in turns.items()}
    each = [statistics.median(ours[point][what]) / statistics.median(stock[point][what]) for ours, stock in zip(turns["qonnx"], turns["stock"])]
    fast = np.percentile(times["qonnx"], 10) / np.percentile(times["stock"], 10)
    return {"batch": point[0], "prompt": point[1], "what": what} | verdict(each, bar) | {
        "ratio_of_10th_percentiles": fast, "ratio_of_each_turn": each} | {f"{kind}_ms": statistics.median(of_kind) for kind, of_kind in times.items()}


def verdict(ratios, bar):
    """What the turns' ratios say together; turns of one machine, which speak for that machine."""
    ci95 = interval(ratios)
    low, high = ci95 or (0, math.inf)
    if 1 - bar <= low and high <= 1 + bar:
        said = "within"
    else:
        said = "beyond" if high < 1 - bar or 1 + bar < low else "undecided"
    return {"ratio": statistics.median(ratios), "ci95": ci95, "verdict": said}


def interval(values):
    """At least 95 % for the median, by order statistics; None of fewer than six values."""
    ordered, count = sorted(values), len(values)
    cut = 0  # values that may lie outside on either side
    while 2 * sum(math.comb(count, below) for below in range(cut + 1)) / 2**count <= 0.05:
        cut += 1
    return [ordered[cut - 1], ordered[-cut]] if cut else None


def shown(ci95):
    return f"{ci95[0]:.3f}-{ci95[1]:.3f}" if ci95 else " " * 11


def show(args, rows):
    how = (" with a CUDA graph" if args.replays else "") + (", fused weights" if args.weights == "fused" else "")
    how += f", --threads {args.threads}" if args.threads else ""
    print(f"{args.dir} on {args.ep}{how}, {args.gen} new tokens, {args.turns} turns each, medians in ms; bar ±{100 * args.bar:g}%\n")
    print(f"{'batch':>5} {'prompt':>6}  {'':7} {'qonnx':>9} {'stock':>9} {'ratio':>7} {'95 %':>11}  {'':9} {'at p10':>7}  {'naive':>9}  ratio of each turn")
    for row in rows:
        each = " ".join(f"{ratio:.3f}" for ratio in row["ratio_of_each_turn"])
        print(f"{row['batch']:>5} {row['prompt']:>6}  {row['what']:7} {row['qonnx_ms']:9.3f} {row['stock_ms']:9.3f} {row['ratio']:7.3f} {shown(row['ci95'])}  "
              f"{row['verdict']:9} {row['ratio_of_10th_percentiles']:7.3f}  {row['naive_ms']:9.3f}  {each}")
    longest = max(row["stock_ms"] for row in rows) / 1e3
    if 0 < args.slice < SAMPLES_A_SLICE * longest:
        print(f"\na slice of {args.slice:g} s is too short for samples of {longest:.3g} s, many of which a stop falls into: --slice {SAMPLES_A_SLICE * longest:.2g}, or 0")


def over_runs(files):
    """The verdict over the turns of several runs, from what each printed."""
    turns = {}
    if len(set(map(os.path.realpath, files))) < len(files):
        sys.exit("a file is named twice: its turns would count twice")
    for file in files:
        run = None
        for line in open(file):
            if header := re.search(r"^(.*), \d+ turns each.*bar ±([\d.]+)%", line):
                run = header.groups()
            elif run and (row := re.match(r" *(\d+) +(\d+)  (prefill|decode) ", line)):
                each = re.split(r" {2,}", line.rstrip())[-1]
                turns.setdefault((*run, int(row[1]), int(row[2]), row[3]), []).extend(map(float, each.split()))
    if not turns:
        sys.exit("no output of honest_timing.py in " + (", ".join(files) or "no file"))
    wide = max(len(run) for run, *_ in turns)
    print(f"{'':{wide}} {'batch':>5} {'prompt':>6}  {'':7} {'turns':>5} {'ratio':>7} {'95 %':>11}  {'':9} half of the turns")
    verdicts = set()
    for (run, bar, batch, prompt, what), each in turns.items():
        judged = verdict(each, float(bar) / 100)
        verdicts.add(judged["verdict"])
        low, high = np.percentile(each, [25, 75])
        print(f"{run:{wide}} {batch:>5} {prompt:>6}  {what:7} {len(each):>5} {judged['ratio']:7.3f} {shown(judged['ci95'])}  {judged['verdict']:9} {low:.3f} to {high:.3f}")
    sys.exit(0 if verdicts == {"within"} else NOT_WITHIN)


def arguments():
    numbers = lambda text: [int(number) for number in text.split(",")]
    parser = argparse.ArgumentParser()
    parser.add_argument("qonnx"); parser.add_argument("dir"); parser.add_argument("--ep", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-cuda-graph", action="store_true"); parser.add_argument("--weights", choices=("stock", "fused"), default="stock")
    parser.add_argument("--batch", type=numbers, default=[1, 16]); parser.add_argument("--prompt", type=numbers, default=[128])
    parser.add_argument("--gen", type=int, default=32); parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=10); parser.add_argument("--threads", type=int)
    parser.add_argument("--slice", type=float); parser.add_argument("--bar", type=float, default=0.03); parser.add_argument("--json")
    args = parser.parse_args()
    if min(args.prompt) < 2:
        parser.error("--prompt: a prompt of one token would be a step; give 2 or more")
    args.replays = args.ep == "cuda" and not args.no_cuda_graph
    if args.slice is None:
        args.slice = SLICE_ON_CUDA if args.ep == "cuda" else 0
    return args


def prepare_environment(ep):
    # Both sides run the package's own library.
    import glob, onnxruntime
    found = glob.glob(os.path.join(os.path.dirname(onnxruntime.__file__), "capi", "libonnxruntime.so.*"))
    if not found:
        sys.exit("the onnxruntime package brings no libonnxruntime.so for qonnx to load; install onnxruntime-gpu for CUDA")
    os.environ["ORT_DYLIB_PATH"] = found[0]
    os.environ.pop("RUST_LOG", None)  # it would hide where points begin
    if ep == "cpu":
        # Where a process's small pages happen to lie moves a decoding step by 5 % and more; both sides get huge ones.
        os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that no stopped process is left
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def main():
    if sys.argv[1:2] == ["--over"]:
        return over_runs(sys.argv[2:])
    args = arguments()
    prepare_environment(args.ep)
    turns = measure(args)
    rows = [compared(turns, point, what, args.bar) for point in turns["qonnx"][0] for what in ("prefill", "decode")]
    show(args, rows)
    if args.json:
        report = {"artifact": args.dir, "ep": args.ep, "cuda_graph": args.replays, "weights": args.weights, "slice_seconds": args.slice,
                  "gen": args.gen, "repeats": args.repeats, "turns": args.turns, "bar": args.bar, "rows": rows}
        json.dump(report, open(args.json, "w"), indent=1)
    sys.exit(0 if all(row["verdict"] == "within" for row in rows) else NOT_WITHIN)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        said = (failed.output or b"").decode(errors="replace")[-2000:]
        sys.exit(f"{said}\n{' '.join(failed.cmd)}: exit code {failed.returncode}; what it said is above")
