#!/usr/bin/env python3
"""Times an export against copying the checkpoint file on the same disk, alternating, and reads its peak memory.

An export returns when the disk has its files, so the copy is timed until the disk has it too (cp, then sync of the file);
the time of cp alone, which may only have filled the page cache, is given as well.

usage: measure_export.py QONNX CHECKPOINT_DIR WORK_DIR [--rounds 5] [-- EXPORT FLAGS]
Prints one JSON object: seconds of each copy and export, the ratio of their medians, peak memory in bytes.
"""
import json, os, shutil, statistics, subprocess, sys, time

flags = sys.argv[sys.argv.index("--") + 1:] if "--" in sys.argv else ["--bits", "4", "--group-size", "32"]
args = sys.argv[1:sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
rounds = int(args[args.index("--rounds") + 1]) if "--rounds" in args else 5
qonnx, checkpoint, work = args[:3]
files = [os.path.join(checkpoint, name) for name in sorted(os.listdir(checkpoint)) if name.endswith(".safetensors")]
os.makedirs(work, exist_ok=True)
caches, copies, exports, reports = [], [], [], []
for turn in range(rounds + 1):
    started = time.perf_counter()
    for file in files:
        subprocess.run(["cp", file, os.path.join(work, "copy")], check=True)
    cached = time.perf_counter() - started
    subprocess.run(["sync", os.path.join(work, "copy")], check=True)
    copied = time.perf_counter() - started
    os.remove(os.path.join(work, "copy"))
    output = os.path.join(work, "artifact")
    shutil.rmtree(output, ignore_errors=True)
    subprocess.run(["sync"], check=True)
    started = time.perf_counter()
    run = subprocess.run([qonnx, "export", checkpoint, *flags, "-o", output, "--json"], check=True, stdout=subprocess.PIPE, text=True)
    exported = time.perf_counter() - started
    if turn:  # the first round warms the page cache
        caches.append(cached); copies.append(copied); exports.append(exported); reports.append(json.loads(run.stdout))
print(json.dumps({
    "copy_seconds": copies, "copy_to_page_cache_seconds": caches, "export_seconds": exports,
    "ratio": statistics.median(exports) / statistics.median(copies),
    "ratio_to_page_cache": statistics.median(exports) / statistics.median(caches),
    "peak_anonymous_bytes": max(report["peak_anonymous_bytes"] for report in reports),
    "peak_rss_bytes": max(report["peak_rss_bytes"] for report in reports),
    "artifact_bytes": reports[0]["artifact_bytes"], "flags": flags,
}))
