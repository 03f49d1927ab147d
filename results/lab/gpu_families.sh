#!/usr/bin/env bash
# Every family on CUDA: divergence of the f16 artifact there from the f32 artifact on the CPU, what is executed, and speed.
#
# usage: gpu_families.sh QONNX CHECKPOINTS TEXT OUT      CHECKPOINTS by make_family_checkpoints.py
set -euo pipefail
qonnx=$1 checkpoints=$2 text=$3 out=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
for checkpoint in "$checkpoints"/*/; do
    name=$(basename "$checkpoint")
    "$qonnx" quantize "$checkpoint" --bits 16 -o "$work/$name-q" > /dev/null
    "$qonnx" export "$work/$name-q" -o "$work/$name-f16" > /dev/null
    "$qonnx" export "$work/$name-q" --dtype f32 -o "$work/$name-f32" > /dev/null
    "$qonnx" export "$checkpoint" --method gptq --ep cuda -o "$work/$name-int4" > "$out/$name-gptq.txt"
    windows=(--text "$text" --window 256 --windows 8)
    cache=(--reference "$work/$name-f32" --reference-cache "$work/$name.kl")
    "$qonnx" eval "$work/$name-f32" --task kl "${cache[@]}" "${windows[@]}" --json > "$out/$name-kl-cpu.json"
    "$qonnx" eval "$work/$name-f16" --task kl "${cache[@]}" "${windows[@]}" --ep cuda --json > "$out/$name-kl-cuda.json"
    "$qonnx" inspect "$work/$name-f16" --ep cuda --json > "$out/$name-inspect.json"
    "$qonnx" inspect "$work/$name-f16" --ep cpu --json > "$out/$name-inspect-cpu.json" || true
    "$qonnx" generate "$work/$name-int4" "The village lies in" --max-new-tokens 16 --ep cuda > "$out/$name-generate.txt" 2>&1
    "$qonnx" bench "$work/$name-f16" --ep cuda --prompt 64 --gen 16 --json > "$out/$name-bench.json"
done
