#!/usr/bin/env bash
# Every method on a CUDA machine: calibrated, exported, verified and inspected there on the embedded model; then GPTQ on a
# checkpoint of Llama-3.2-1B's shape with 128 x 2048 tokens, timed, with the peak of the GPU's memory.
#
#   results/lab/gpu_quantization.sh QONNX OUT
#
# ORT_DYLIB_PATH and LD_LIBRARY_PATH lead to ONNX Runtime's CUDA build and CUDA's libraries. Needs python3 with numpy and
# nvidia-smi. Run from the repository's root; about four minutes on an H200, 10 GB under OUT/work.
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
qonnx=$1 out=$2 work=$2/work model=fixtures/tiny-coqa
mkdir -p "$work"

methods=(
    "gptq4 --method gptq --bits 4 --group-size 128"
    "gptq3 --method gptq --bits 3 --group-size 128"
    "gptq2 --method gptq --bits 2 --group-size 32"
    "int5 --bits 5 --group-size 64"
    "int6 --bits 6 --group-size 64"
    "nf4 --method nf4"
    "nf4n --method nf4 --double-quantization"
    "fp4 --method fp4"
    "int8o --method llm-int8 --outlier-threshold 3"
    "awq --method awq --bits 4 --group-size 128"
    "awqgptq --method awq+gptq --bits 4 --group-size 128 --asymmetric"
    "rot --method gptq --bits 4 --group-size 128 --rotate"
    "corr --method gptq --bits 4 --group-size 128 --target-correction 0.5"
    "budget --method gptq --target-bpw 3.5 --group-size 128"
)
for method in "${methods[@]}"; do
    read -r name flags <<<"$method"
    # shellcheck disable=SC2086  # flags are words
    "$qonnx" export "$model" $flags --ep cuda -o "$work/$name" >"$out/$name.txt" 2>&1
    "$qonnx" verify "$work/$name" --ep cuda >>"$out/$name.txt" 2>&1
    "$qonnx" inspect "$work/$name" --ep cuda >>"$out/$name.txt" 2>&1
    echo "$name: exported, verified, every weight fused"
done

python3 results/lab/make_checkpoint.py llama-3.2-1b "$work/llama1b"
cp fixtures/tiny-coqa/{tokenizer,tokenizer_config,special_tokens_map,generation_config}.json "$work/llama1b/"
python3 - "$work/ids.json" <<'PYTHON'
import json, random, sys
draw = random.Random(0)
json.dump({"sequences": [[draw.randrange(128000) for _ in range(2048)] for _ in range(128)]}, open(sys.argv[1], "w"))
PYTHON
for sweeps in 0 2; do
    nvidia-smi ${CUDA_VISIBLE_DEVICES:+-i $CUDA_VISIBLE_DEVICES} --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 >"$out/memory.txt" &
    watch=$!
    "$qonnx" export "$work/llama1b" --method gptq --bits 4 --group-size 128 --sweeps $sweeps --calibration "$work/ids.json" \
        --ep cuda --json -o "$work/1b-$sweeps" >"$out/gptq-1b-sweeps$sweeps.json"
    kill $watch
    python3 - "$out/gptq-1b-sweeps$sweeps.json" "$out/memory.txt" $sweeps <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
peak = max(int(line) for line in open(sys.argv[2]) if line.strip())
print(f"Llama-3.2-1B's shape, GPTQ, {sys.argv[3]} sweeps: {report['seconds']:.1f} s, GPU memory {peak} MiB, "
      f"host, files apart, {report['peak_anonymous_bytes'] / 1e6:.0f} MB")
PYTHON
    rm -r "$work/1b-$sweeps"
done
