#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# ///
"""Makes the hand-made records that the report's tests read: tests/report/records/.

Numbers are made up, of the size that a small model gives on a small CPU: one experiment failed at export, one was never
timed, one ran out of memory at the largest batch. The same input gives the same files.

    tests/goldens/make/make_report_records.py
"""

import json
import math
import random
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[3] / "tests/report/records"
PARAMETERS = 45_000_000
LINEARS = 28_000_000
QUESTIONS = 500
BASE_F1 = 0.412
BATCHES, PROMPTS = [1, 4, 16], [128, 512]


def weights(format, group=None, rounding="rtn", **more):
    granularity = "channel" if group is None else {"group": group}
    scale = "least-squares" if format in ("int4", "int3", "int2") else "absmax"
    recipe = {"format": format, "symmetric": True, "granularity": granularity, "scale": scale, "rounding": rounding}
    if format in ("nf4", "fp4"):
        recipe = {"format": format, "granularity": granularity, "rounding": rounding}
    return recipe | more


GPTQ = {"method": "gptq", "damping": 0.01, "act_order": True, "group_scales": "static", "scale_fit": "gram", "sweeps": 2}
AWQ = {"awq": {"ratio_steps": 20, "clip": False}}

# name, title, method, bits, f1 difference, half width of its interval, relative decode time, weights, transform
EXPERIMENTS = [
    ("int8_rtn", "INT8, per channel", "rtn", 8.03, -0.001, 0.006, 0.62, weights("int8"), None),
    ("bnb_8bit", "LLM.int8", "llm-int8", 8.21, 0.001, 0.005, 0.81, weights("int8", outlier_threshold=6.0), None),
    ("int4_rtn_g32", "INT4, group 32", "rtn", 4.50, -0.021, 0.014, 0.47, weights("int4", 32), None),
    ("int4_rtn_g128", "INT4, group 128", "rtn", 4.13, -0.047, 0.018, 0.45, weights("int4", 128), None),
    ("gptq_4bit_g32", "GPTQ INT4, group 32", "gptq", 4.50, -0.004, 0.011, 0.47, weights("int4", 32, GPTQ), None),
    ("gptq_4bit_g128", "GPTQ INT4, group 128", "gptq", 4.13, -0.009, 0.012, 0.45, weights("int4", 128, GPTQ), None),
    ("awq_4bit_g128", "AWQ INT4, group 128", "awq", 4.13, -0.022, 0.015, 0.45, weights("int4", 128), AWQ),
    ("awq_gptq_4bit_g128", "AWQ then GPTQ, INT4, group 128", "awq+gptq", 4.13, -0.006, 0.012, 0.45, weights("int4", 128, GPTQ), AWQ),
    ("bnb_4bit_nf4", "NF4, group 64", "nf4", 4.25, -0.017, 0.013, 0.56, weights("nf4", 64), None),
    ("bnb_4bit_nf4_dq", "NF4, group 64, scales in 8 bits", "nf4", 4.13, -0.018, 0.013, 0.57, weights("nf4", 64, double_quantization=True), None),
    ("bnb_4bit_fp4", "FP4, group 64", "fp4", 4.25, -0.035, 0.017, 0.56, weights("fp4", 64), None),
    ("gptq_3bit_g128", "GPTQ INT3, group 128", "gptq", 3.13, -0.052, 0.020, 0.45, weights("int3", 128, GPTQ), None),
    ("budget_3p25", "mixed widths, 3.25 bits", "mixed", 3.25, -0.028, 0.016, 0.46, weights("int3", 128, GPTQ), None),
    ("int2_rtn_g32", "INT2, group 32", "rtn", 2.50, -0.384, 0.030, 0.40, weights("int2", 32), None),
    ("gptq_2bit_g32", "GPTQ INT2, group 32", "gptq", 2.50, -0.171, 0.028, 0.40, weights("int2", 32, GPTQ), None),
    ("int3_rtn_g128", "INT3, group 128", "rtn", 3.13, -0.139, 0.026, 0.45, weights("int3", 128), None),
]


def samples(middle, spread, rng, count=12):
    values = [round(middle * (1 + spread * abs(rng.gauss(0, 1)) * (4 if i == 7 else 1)), 4) for i in range(count)]
    ordered = sorted(values)
    rank = lambda q: ordered[min(count - 1, math.ceil(q * count) - 1)]
    return {"values": values, "mean": round(sum(values) / count, 6), "p50": (ordered[count // 2 - 1] + ordered[count // 2]) / 2,
            "p95": rank(0.95), "p99": rank(0.99), "min": ordered[0], "max": ordered[-1], "ci95": [ordered[2], ordered[-3]], "outliers": []}


def point(batch, prompt, speed, model_bytes, rng):
    step = 9.4 * speed * (1 + 0.13 * (batch - 1)) * (1 + prompt / 8000)
    prefill = 0.36 * prompt * batch ** 0.92 * (0.6 + 0.4 * speed)
    decode, first = samples(step, 0.02, rng), samples(prefill, 0.03, rng)
    moved = model_bytes + 18_432 * batch * prompt
    return {"batch": batch, "prompt_tokens": prompt, "outcome": {
        "outcome": "measured", "prefill_ms": first, "prefill_tokens_per_second": round(1000 * batch * prompt / first["p50"], 3),
        "ttft_ms": samples(first["p50"] * 1.01 + 0.2, 0.02, rng) if batch == 1 else None, "decode_ms_per_token": decode,
        "decode_tokens_per_second": round(1000 * batch / decode["p50"], 3), "memory_peak_bytes": model_bytes + 140_000_000 + 40_000 * batch * prompt,
        "bytes_per_step": moved, "bandwidth_fraction": round(moved / (decode["p50"] / 1000) / 19.2e9, 4), "power": None}}


def bench(name, speed, model_bytes, rng):
    points = [point(batch, prompt, speed, model_bytes, rng) for prompt in PROMPTS for batch in BATCHES]
    if name == "bnb_8bit":
        points[-1]["outcome"] = {"outcome": "out-of-memory", "message": "the session asked for 2.1 GB and 1.4 GB were free"}
    settings = {"batches": BATCHES, "prompts": PROMPTS, "new_tokens": 64, "warmup": 2, "min_repeats": 8, "max_repeats": 60, "confidence": 0.01, "cuda_graph": False}
    warnings = ["decode, batch 4, prompt 512: 1 of 12 samples is an outlier"] if name == "int8_rtn" else []
    return {"ep": "cpu", "threads": 2, "model_bytes": model_bytes, "weights_memory_bytes": int(model_bytes * 1.08), "load_seconds": round(0.21 + 0.2 * speed, 3),
            "peak_rss_bytes": int(model_bytes * 1.6) + 180_000_000, "peak_device_bytes": None, "copy_bytes_per_second": 19.2e9, "settings": settings, "points": points,
            "warnings": warnings}


def paired(difference, half, baseline, **more):
    return {} if baseline else {"paired": {"difference": difference, "ci95": [round(difference - half, 6), round(difference + half, 6)], **more}}


def record(name, title, method, bits, difference, half, speed, recipe, transform):
    rng = random.Random(name)
    baseline = method == "baseline"
    model_bytes = int(LINEARS * bits / 8 + (PARAMETERS - LINEARS) * 2 + 120_000)
    f1 = round(BASE_F1 + difference, 6)
    text = {"version": "1.0", "data": "perplexity.txt", "counts": {"tokens": 15330, "windows": 30}}
    against = {} if baseline else {"baseline": {"name": "fp16_baseline", "id": "b0c1d2e3f4a5"}}
    p_mid = round(min(1.0, math.exp(-(abs(difference) / (half or 1)) ** 2 * 1.9)), 6)
    evaluation = [
        {"task": "coqa", "version": "official 1.0", "data": "coqa-dev-v1.0.json", "counts": {"questions": QUESTIONS}, "questions_per_second": 11.4,
         "predictions": f"{name}_predictions.jsonl", **against, "scores": [
             {"metric": "f1", "value": f1, "stderr": 0.0187} | paired(difference, half, baseline, smallest_detectable=round(1.43 * half, 6)),
             {"metric": "em", "value": round(0.78 * f1, 6), "stderr": 0.0201} | paired(round(0.9 * difference, 6), half, baseline, p_mid=p_mid)]},
        {"task": "perplexity", **text, "scores": [{"metric": "perplexity", "value": round(21.4 * math.exp(-3.1 * difference), 4)}]}]
    if not baseline:
        evaluation.append({"task": "kl", **text, **against, "scores": [{"metric": "kl_mean", "value": round(max(0.0004, 1.9 * abs(difference)), 6)}]})
    calibrated = isinstance(recipe.get("rounding"), dict) or transform or "outlier_threshold" in recipe
    whole = {"weights": recipe, "embedding": {"format": "f16"}}
    if transform:
        whole["transform"] = transform
    if calibrated:
        whole["calibration"] = {"set": "own-36x256"}
    ident = "b0c1d2e3f4a5" if baseline else f"{rng.getrandbits(48):012x}"
    return {
        "schema": 2, "experiment_name": name, "id": ident, "title": title, "method": method, "baseline": None if baseline else "fp16_baseline",
        "model": {"source": "coqa-45m", "revision": None, "parameters": PARAMETERS, "blake3": "4f9d2c" * 10 + "abcd", "calibration": "77aa" * 16 if calibrated else None},
        "recipe": whole, "program": {"version": "0.1.0", "commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "environment": {"ep": "cpu", "onnxruntime": "1.32.0", "cpu": "Intel Xeon (made up)", "cores": 2, "threads": 2, "gpu": None, "driver": None, "activation": "f32"},
        "sizes": {"bits_per_weight_linears": bits, "bits_per_weight_model": round(model_bytes * 8 / PARAMETERS, 4),
                  "memory_bits_per_weight_linears": bits if bits != 3.13 else 4.13, "model_bytes": model_bytes},
        "export": {"seconds": round(4 + 60 * bool(calibrated) + rng.random(), 2), "artifact_bytes": model_bytes + 2_310_000, "peak_rss_bytes": 390_000_000,
                   "peak_anonymous_bytes": 210_000_000, "data_blake3": f"{rng.getrandbits(256):064x}"},
        "sanity": {"prompt": "The capital of France is", "text": " Paris.", "new_tokens": 8},
        "evaluation": evaluation,
        "benchmarks": bench(name, speed, model_bytes, rng),
        "stages": [{"stage": stage, "seconds": seconds} for stage, seconds in [("export", 4.2), ("sanity", 0.6), ("evaluate", 43.9), ("bench", 31.0)]],
        "warnings": [], "failure": None}


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    records = [record("fp16_baseline", "unquantized, 16 bits", "baseline", 16.0, 0.0, 0.0, 1.0, {"format": "f16"}, None)]
    records += [record(*experiment) for experiment in EXPERIMENTS]
    by_name = {each["experiment_name"]: each for each in records}
    by_name["bnb_4bit_nf4_dq"]["benchmarks"] = None
    by_name["bnb_4bit_nf4_dq"]["warnings"] = ["benchmark skipped: --skip bench"]
    failed = by_name["int3_rtn_g128"]
    failed |= {"sizes": None, "export": None, "sanity": None, "evaluation": [], "benchmarks": None, "stages": [{"stage": "export", "seconds": 2.1}],
               "failure": {"stage": "export", "message": "model.onnx.data: No space left on device (os error 28); free the disk | or give another folder <-o>"}}
    for name, each in by_name.items():
        (FOLDER / f"{name}_results.json").write_text(json.dumps(each, indent=2, ensure_ascii=False) + "\n")


main()
