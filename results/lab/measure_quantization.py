#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = []
# ///
"""Exports, checks and scores a checkpoint under every recipe of the list below, and writes one JSON line a row.

    python results/lab/measure_quantization.py QONNX coqa-45m PEERS COQA WORK [--only NAME,…] [--tasks kl,perplexity,coqa] [--ep cpu|cuda] [--jobs N]

PEERS holds calibration.json and windows.json. A row that stands in WORK/rows.jsonl already is left alone, so that an
interrupted run goes on. Every artifact must pass `verify` and `inspect`, or its row says what failed. KL is over the first 30
windows against the f32 artifact, perplexity over all of them, CoQA with the official protocol, compared question by question
with the unquantized model. Weights are dequantized at load where only accuracy is asked, which gives the numbers of the fused
kernels up to the order of sums (`kl_fused` proves it).

    python results/lab/measure_quantization.py --table results/quantization/rows.jsonl     the rows as a table for a README, by KL within bits
"""

import argparse
import concurrent.futures
import json
import pathlib
import shutil
import subprocess
import sys
import time

CAL = ["--calibration", "{peers}/calibration.json"]
GPTQ = ["--method", "gptq", *CAL]
FULL = [*GPTQ, "--target-correction", "0.5", "--sweeps", "2"]
ROWS = {
    "f32": ["--bits", "16"],
    "int8-channel-rtn": ["--bits", "8"],
    "llm-int8": ["--method", "llm-int8", *CAL],
    "int4-g128-absmax-rtn": ["--bits", "4", "--group-size", "128", "--scale", "absmax"],
    "int4-g32-absmax-rtn": ["--bits", "4", "--group-size", "32", "--scale", "absmax"],
    "int4-g128-rtn": ["--bits", "4", "--group-size", "128"],
    "int4-g32-rtn": ["--bits", "4", "--group-size", "32"],
    "int4-g32-asymmetric-rtn": ["--bits", "4", "--group-size", "32", "--asymmetric"],
    "nf4-g64": ["--method", "nf4"],
    "nf4-g64-nested": ["--method", "nf4", "--double-quantization"],
    "fp4-g64": ["--method", "fp4"],
    "int4-g128-gptq": [*GPTQ, "--bits", "4", "--group-size", "128"],
    "int4-g32-gptq": [*GPTQ, "--bits", "4", "--group-size", "32"],
    "int4-g128-gptq-no-recovery": [*GPTQ, "--bits", "4", "--group-size", "128", "--sweeps", "0"],
    "int4-g128-gptq-absmax": [*GPTQ, "--bits", "4", "--group-size", "128", "--sweeps", "0", "--scale", "absmax"],
    "int4-g128-gptq-corrected": [*FULL, "--bits", "4", "--group-size", "128"],
    "int4-g32-gptq-corrected": [*FULL, "--bits", "4", "--group-size", "32"],
    "int4-g32-asymmetric-gptq-corrected": [*FULL, "--bits", "4", "--group-size", "32", "--asymmetric"],
    "int4-g128-awq-rtn": ["--method", "awq", *CAL, "--bits", "4", "--group-size", "128"],
    "int4-g128-awq-gptq": ["--method", "awq+gptq", *CAL, "--bits", "4", "--group-size", "128"],
    "int4-g128-rotated-gptq": [*GPTQ, "--bits", "4", "--group-size", "128", "--rotate"],
    "int3-g128-rtn": ["--bits", "3", "--group-size", "128", "--asymmetric"],
    "int3-g128-gptq": [*GPTQ, "--bits", "3", "--group-size", "128"],
    "int3-g128-gptq-corrected": [*FULL, "--bits", "3", "--group-size", "128"],
    "int2-g32-rtn": ["--bits", "2", "--group-size", "32"],
    "int2-g32-gptq-plain": ["--recipe", "{here}/int2-g32-gptq-plain.toml", *CAL],
    "int2-g32-gptq-no-recovery": [*GPTQ, "--bits", "2", "--group-size", "32", "--sweeps", "0"],
    "int2-g32-gptq": [*GPTQ, "--bits", "2", "--group-size", "32"],
    "int2-g32-gptq-corrected": [*FULL, "--bits", "2", "--group-size", "32"],
    "budget-4.63": [*FULL, "--target-bpw", "4.63", "--group-size", "128"],
    "budget-4.25": [*FULL, "--target-bpw", "4.25", "--group-size", "128"],
    "budget-3.25": [*FULL, "--target-bpw", "3.25", "--group-size", "128"],
    "budget-2.5": [*FULL, "--target-bpw", "2.5", "--group-size", "128"],
}


def main():
    if sys.argv[1:2] == ["--table"]:
        return table(pathlib.Path(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("qonnx", "checkpoint", "peers", "coqa", "work"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--only", help="names of rows, separated by commas; f32 is always made")
    parser.add_argument("--tasks", default="kl,perplexity,coqa")
    parser.add_argument("--ep", default="cpu", help="that calibration runs on; rows are scored on the CPU, in f32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="rows made at once, on a machine with cores to spare")
    parser.add_argument("--keep", action="store_true", help="keep the artifacts")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = args.work / "rows.jsonl"
    done = {json.loads(line)["name"] for line in rows.open()} if rows.exists() else set()
    wanted = [name for name in (args.only.split(",") if args.only else ROWS) if name not in done]
    reference = args.work / "f32"
    if not reference.exists():
        export(args, "f32", ["--bits", "16"])

    def add(row):
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        show(row)

    # Every other row is compared with it.
    if "f32" in wanted:
        wanted.remove("f32")
        add(measure(args, "f32", reference))
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        rows_to_come = {pool.submit(measure, args, name, reference): name for name in wanted}
        failed = []
        for row in concurrent.futures.as_completed(rows_to_come):
            try:
                add(row.result())
            except Failed as error:
                failed.append(rows_to_come[row])
                print(f"{failed[-1]}: {error}", flush=True)
    if failed:
        raise SystemExit(f"failed, and made again by the same command: {', '.join(failed)}")


def measure(args, name, reference):
    flags = [flag.format(peers=args.peers, here=pathlib.Path(__file__).resolve().parent.parent / "quantization") for flag in ROWS[name]]
    out = args.work / name
    row = {"name": name, "flags": flags}
    row |= export(args, name, flags) if not out.exists() else {}
    manifest = json.loads((out / "qonnx.json").read_text())
    row["sizes"] = manifest["sizes"]
    judged = [weight["calibrated"] for weight in manifest["weights"] if weight.get("calibrated")]
    if judged:
        # Output errors of single weights over round to nearest's; a weight with an input that is never active has neither.
        ratios = [found["output_error"] / found["rtn_output_error"] for found in judged if found["rtn_output_error"]]
        row["against_rtn"] = {"weights": len(ratios), "above": sum(ratio >= 1 for ratio in ratios), "worst": max(ratios)}
    for check in ("verify", "inspect"):
        run = subprocess.run([args.qonnx, check, out], capture_output=True, text=True)
        row[check] = "ok" if run.returncode == 0 else (run.stderr or run.stdout).strip()
    dense = ["--weights", "dequantized", "--ep", "cpu"] + (["--threads", str(args.threads)] if args.threads else [])
    text = ["--text", args.peers / "windows.json"]
    tasks = args.tasks.split(",")
    if "kl" in tasks:
        row["kl"] = qonnx(args, "eval", out, "--task", "kl", "--reference", reference, "--windows", "30", *text, *dense)
    if "kl_fused" in tasks:
        fused = dense[2:]
        row["kl_fused"] = qonnx(args, "eval", out, "--task", "kl", "--reference", reference, "--windows", "30", *text, *fused)
    if "perplexity" in tasks:
        row["perplexity"] = qonnx(args, "eval", out, "--task", "perplexity", *text, *dense)
    if "coqa" in tasks:
        lines = args.work / f"{name}.jsonl"
        official = ["--task", "coqa", "--protocol", "official", "--data", args.coqa, "--predictions", lines]
        row["coqa"] = qonnx(args, "eval", out, *official, *dense)
        baseline = args.work / "f32.jsonl"
        if name != "f32" and baseline.exists():
            row["compare"] = qonnx(args, "compare", baseline, lines)
    if name != "f32" and not args.keep:
        shutil.rmtree(out)
    return row


def export(args, name, flags):
    started = time.monotonic()
    report = qonnx(args, "export", args.checkpoint, *flags, "--dtype", "f32", *on(args, ROWS[name]), "-o", args.work / name)
    return {"export": report, "export_seconds": round(time.monotonic() - started, 1)}


def on(args, flags):
    """Where an export calibrates; one that does not has no such flag to set."""
    threads = ["--threads", str(args.threads)] if args.threads else []
    return ["--ep", args.ep, *threads] if set(flags) & {"gptq", "awq", "awq+gptq", "llm-int8", "--recipe"} else []


def qonnx(args, *words):
    run = subprocess.run([args.qonnx, *map(str, words), "--json"], capture_output=True, text=True)
    if run.returncode == 0:
        return json.loads(run.stdout)
    raise Failed(f"qonnx {' '.join(map(str, words))}\n{run.stderr.strip()}")


def table(path):
    rows = [json.loads(line) for line in path.open()]
    rows.sort(key=lambda row: (round(-row["sizes"]["bits_per_weight_linears"], 1), row["kl"]["kl_mean"]))
    print("| recipe | bits (disk) | KL | same top-1 | perplexity | CoQA F1 less f32's, paired 95 % | weights above RTN's error | export, s | verify, inspect |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        bits, kl = row["sizes"]["bits_per_weight_linears"], row["kl"]
        ppl = f"{row['perplexity']['perplexity']:.3f}" if "perplexity" in row else "–"
        checks = "ok" if row["verify"] == row["inspect"] == "ok" else f"{row['verify']}; {row['inspect']}"
        difference, judged = row.get("compare"), row.get("against_rtn")
        f1 = "{:+.4f} [{:+.4f}, {:+.4f}]".format(difference["f1_difference"], *difference["f1_ci95"]) if difference else "–"
        above = f"{judged['above']} of {judged['weights']}" if judged else "–"
        where = row.get("machine", "")
        seconds = f"{row['export_seconds']:.1f}{where}" if row.get("export_seconds") else "–"
        print(f"| `{row['name']}` | {bits:.3f} | {kl['kl_mean']:.5f} | {kl['same_top1']:.3f} | {ppl} | {f1} | {above} | {seconds} | {checks} |")


class Failed(Exception):
    """A command that did not end well."""


def show(row):
    bits = row["sizes"]["bits_per_weight_linears"]
    kl = row.get("kl", {}).get("kl_mean", float("nan"))
    ppl = row.get("perplexity", {}).get("perplexity", float("nan"))
    print(f"{row['name']:36} {bits:7.3f} bits  KL {kl:9.5f}  perplexity {ppl:8.3f}  verify {row['verify'][:30]}  inspect {row['inspect'][:30]}", flush=True)


if __name__ == "__main__":
    main()
