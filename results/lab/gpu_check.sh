#!/usr/bin/env bash
# Shows on a machine with a CUDA GPU that the artifacts run there as on the CPU: every node on the GPU, every quantized
# MatMul fused, CoQA scores beside those of f32 on the CPU, decode speed. Needs no compiler and no network.
#
#   results/lab/gpu_check.sh QONNX CHECKPOINT COQA.json OUT_DIR [SPEED_CHECKPOINT]
#
# QONNX is the binary; ORT_DYLIB_PATH names ONNX Runtime's CUDA build. The parity suite runs beside it: build it with
# `cargo test --no-run --test parity` and run it there from this folder with QONNX_TEST_EP=cuda. Writes one JSON file a measurement to OUT_DIR.
set -uo pipefail
qonnx=$1 checkpoint=$2 data=$3 out=$4 speed=${5-}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$qonnx" doctor | tee "$out/doctor.txt"
export_as() { # NAME FLAGS…
    local name=$1
    shift
    "$qonnx" export "$checkpoint" "$@" -o "$work/$name" --json >"$out/export_$name.json" || echo "export $name FAILED"
}
export_as f32 --bits 16 --dtype f32
export_as f16 --bits 16
export_as int8 --bits 8
export_as int8-g32 --bits 8 --group-size 32
export_as int4 --bits 4
export_as int4-embedding4 --bits 4 --embedding int4
export_as uint4-g128 --bits 4 --group-size 128 --asymmetric
export_as int2 --bits 2

echo "== scores"
coqa() { # NAME EP FLAGS…
    local name=$1 ep=$2
    shift 2
    "$qonnx" eval "$work/$name" --task coqa --protocol official --data "$data" --ep "$ep" --batch 64 --json "$@" \
        --predictions "$out/answers_${name}_$ep.jsonl" >"$out/coqa_${name}_$ep.json" || echo "eval $name on $ep FAILED"
    echo "$name $ep $(python3 -c "import json,sys; r = json.load(open(sys.argv[1])); print('F1 %.4f EM %.4f %.1f questions/s' % (r['f1'], r['em'], r['questions_per_second']))" "$out/coqa_${name}_$ep.json")"
}
coqa f32 cpu
for name in f16 int8 int8-g32 int4 int4-embedding4 uint4-g128 int2; do coqa "$name" cuda; done
for name in f16 int8 int4 int2; do "$qonnx" compare "$out/answers_f32_cpu.jsonl" "$out/answers_${name}_cuda.jsonl" | tee "$out/compare_$name.txt"; done
rm -f "$out"/answers_*

echo "== what runs"
for name in f16 int8 int8-g32 int4 int4-embedding4 uint4-g128 int2; do
    echo "-- $name"
    "$qonnx" inspect "$work/$name" --ep cuda | tee "$out/inspect_$name.txt" || echo "inspect $name: exit $?"
    "$qonnx" verify "$work/$name" --ep cuda | tee "$out/verify_$name.txt" || echo "verify $name: exit $?"
done

if [ -n "$speed" ]; then
    echo "== speed, batch 1, 256 new tokens"
    for bits in 16 8 4 2; do
        "$qonnx" export "$speed" --bits "$bits" -o "$work/speed-$bits" --json | tee "$out/export_speed_$bits.json"
        for turn in 1 2; do
            "$qonnx" generate "$work/speed-$bits" "Once upon a time" --max-new-tokens 256 --ep cuda --json >"$out/speed_${bits}_$turn.json"
            python3 -c "import json,sys; r = json.load(open(sys.argv[1])); print('$bits bits: %.1f tokens/s, %.3f ms a token, %s new' % (r['tokens_per_second'], r['ms_per_token'], r['new_tokens']))" "$out/speed_${bits}_$turn.json"
        done
        rm -rf "$work/speed-$bits"
    done
fi
