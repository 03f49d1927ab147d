#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["onnxruntime==1.32.0"]
# ///
"""How long stock ONNX Runtime takes to load artifacts on the CPU, and how much memory that is not a mapped file it uses.

Codes of odd widths are put together while a session is made; ONNX Runtime keeps every step of it until the last weight is
done, so the peak is what a machine must have. Each artifact is loaded in a process of its own.

usage: measure_load.py DIR...
Prints one JSON line an artifact: seconds, peak and final anonymous bytes above what the process had before.
"""
import json, os, subprocess, sys, threading, time


def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024


def measure(folder):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    before, peak, done = anonymous(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    session = ort.InferenceSession(os.path.join(folder, "model.onnx"), options, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    after = anonymous() - before
    del session
    return {"artifact": folder, "seconds": round(seconds, 3), "peak_bytes": max(peak - before, after), "loaded_bytes": after}


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--one":
        print(json.dumps(measure(sys.argv[2])), flush=True)
        sys.exit(0)
    for folder in sys.argv[1:]:
        subprocess.run([sys.executable, __file__, "--one", folder], check=True)
