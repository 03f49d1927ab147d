#!/usr/bin/env bash
# Are `qonnx bench`'s times on CUDA honest? results/lab/honest_timing.py on INT4 (groups of 32) of a checkpoint of
# Llama-3.2-1B's shape with random weights. Batch 1 in many short turns, since prefill there depends on how fast each process
# happens to be; batch 16 in few.
#
#   results/lab/gpu_honest.sh QONNX WORK OUTPUT [FLAGS]
#   results/lab/gpu_honest.sh target/release/qonnx /tmp/honest results/gpu-bench/honest-eager.txt --no-cuda-graph
#
# FLAGS are honest_timing.py's; OUTPUT is what it prints, for `honest_timing.py --over`, which ends this script and its exit
# code. Needs what results/lab/gpu_bench.sh needs, and python3 with onnxruntime-gpu. Run from the repository's root; some ten
# minutes on an H200 (reckoned, not measured), 4 GB in WORK, which is used again.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; }
qonnx=$1 work=$2 output=$3
shift 3
mkdir -p "$work"
if [ ! -e "$work/int4-g32" ]; then
    python3 results/lab/make_checkpoint.py llama-3.2-1b "$work/llama1b" --tokenizer fixtures/tiny-coqa
    "$qonnx" export "$work/llama1b" --bits 4 --group-size 32 -o "$work/int4-g32" >/dev/null
fi
honest() { # FLAGS…
    echo "\$ results/lab/honest_timing.py QONNX INT4_G32 $*"
    # 3: not within by these turns alone.
    python3 results/lab/honest_timing.py "$qonnx" "$work/int4-g32" "$@" || [ $? -eq 3 ]
    echo
}
{
    honest --ep cuda --batch 16 --gen 64 --repeats 6 --turns 6 "$@"
    honest --ep cuda --batch 1 --gen 8 --repeats 60 --turns 36 "$@"
} | tee "$output"
python3 results/lab/honest_timing.py --over "$output"
