#!/usr/bin/env bash
# Speed, memory and energy on a CUDA machine: a checkpoint of Llama-3.2-1B's shape with random weights as f16, INT8, INT4 (groups
# of 32), INT2 (groups of 32) and NF4, each at batch 1, 4, 16 and prompts of 128 and 512 tokens; f16 and INT4 without a CUDA graph
# too, INT4 also by ONNX Runtime's kernels for batches. Whether the times are honest: results/lab/gpu_honest.sh.
#
#   results/lab/gpu_bench.sh QONNX OUT
#
# ORT_DYLIB_PATH and LD_LIBRARY_PATH lead to ONNX Runtime's CUDA build and CUDA's libraries. Needs python3 with numpy. Run from
# the repository's root; under five minutes on an H200, 8 GB under OUT/work. Writes OUT/<form>.json and .txt, OUT/doctor.txt.
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
qonnx=$1 out=$2 work=$2/work model=$2/work/llama1b
mkdir -p "$work"
"$qonnx" doctor >"$out/doctor.txt" || true
# The embedded model's tokenizer makes prompts of ids that the larger vocabulary has too.
python3 results/lab/make_checkpoint.py llama-3.2-1b "$model" --tokenizer fixtures/tiny-coqa

summary() { # FILE
    python3 - "$1" <<'PYTHON'
import json, os, sys
report = json.load(open(sys.argv[1]))
load, weights, copies = report["load_seconds"], (report["weights_memory_bytes"] or 0) - (report.get("idle_session_bytes") or 0), report["copy_bytes_per_second"] or 0
print(f"{os.path.basename(sys.argv[1])}: loaded in {load:.1f} s, weights {weights / 1e9:.2f} GB, copies {copies / 1e12:.2f} TB/s, "
      f"{'with' if report['settings']['cuda_graph'] else 'without'} a CUDA graph")
for point in report["points"]:
    got = point["outcome"]
    if got["outcome"] != "measured":
        print(point["batch"], point["prompt_tokens"], got["outcome"], got["message"])
        continue
    power = got["power"] or {}
    print(f"batch {point['batch']:>2} prompt {point['prompt_tokens']:>3}: prefill {got['prefill_ms']['p50']:7.2f} ms, step "
          f"{got['decode_ms_per_token']['p50']:6.3f} ms, {got['decode_tokens_per_second']:6.0f} tokens/s, "
          f"{got['bandwidth_fraction'] or 0:.0%} of bandwidth, {power.get('joules_per_token', 0):.3f} J/token at {power.get('mean_watts', 0):.0f} W, "
          f"{power.get('sm_clock_mhz')} MHz {power.get('throttle')}")
print(*report["warnings"], sep="\n")
PYTHON
}

forms=(
    "f16 --bits 16"
    "int8 --bits 8"
    "int4-g32 --bits 4 --group-size 32"
    "int2-g32 --bits 2 --group-size 32"
    "nf4 --method nf4"
)
for form in "${forms[@]}"; do
    read -r name flags <<<"$form"
    # shellcheck disable=SC2086  # flags are words
    "$qonnx" export "$model" $flags -o "$work/$name" >/dev/null
    "$qonnx" bench "$work/$name" --ep cuda --batch 1,4,16 --prompt 128,512 --gen 64 --max-repeats 20 --json >"$out/$name.json"
    summary "$out/$name.json" | tee "$out/$name.txt"
done
for name in f16 int4-g32; do
    "$qonnx" bench "$work/$name" --ep cuda --no-cuda-graph --batch 1,16 --prompt 128 --gen 64 --max-repeats 20 --json >"$out/$name-eager.json"
    summary "$out/$name-eager.json" | tee "$out/$name-eager.txt"
done
"$qonnx" bench "$work/int4-g32" --ep cuda --weights fused --batch 1,2,4,8,16 --prompt 128 --gen 64 --max-repeats 20 --json >"$out/int4-g32-fused.json"
summary "$out/int4-g32-fused.json" | tee "$out/int4-g32-fused.txt"
rm -r "$work"
