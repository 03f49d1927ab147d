#!/usr/bin/env bash
# The whole study on the embedded model: every method exported, scored and measured, and the report. Under ten minutes on two
# cores, the build not counted. Stopped, it goes on where it was.
#
# Needs a Rust toolchain and python3 with pip; the rest it gets itself. Folder of the results: the first argument, or artifacts/study.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "study.sh: $*" >&2
    exit 1
}

say() {
    printf '\n== %s (%ds)\n' "$1" "$SECONDS" >&2
}

command -v cargo >/dev/null || fail "cargo is not there; install the Rust toolchain from https://rustup.rs"

say "getting ONNX Runtime"
ORT_DYLIB_PATH=${ORT_DYLIB_PATH:-$(scripts/get-onnxruntime.sh)}
export ORT_DYLIB_PATH

say "building qonnx"
cargo build --release --locked
qonnx=${CARGO_TARGET_DIR:-target}/release/qonnx

results=${1:-artifacts/study}
mkdir -p "$results"
began=$SECONDS

say "the sweep: benches/sweeps/tiny.toml, and its report"
"$qonnx" sweep benches/sweeps/tiny.toml --results "$results" --report

say "done, $((SECONDS - began)) s for the sweep and the report"
echo "records:  $results/*_results.json, the answers beside them in *.jsonl"
echo "report:   $results/REPORT.md, report.html, report.pdf, figures/"
echo "next:     $qonnx sweep benches/sweeps/tiny.toml --results $results --dry-run     # all done; change the file and run it again"
