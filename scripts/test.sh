#!/usr/bin/env bash
# Formatting, clippy with warnings as errors, each feature alone and none, all tests: everything CI runs, from a fresh clone on.
#
# Needs a Rust toolchain and python3 with pip. Fetches ONNX Runtime, the Python packages of the parity tests, Chromium (as root, from
# Debian's packages, strace and bindfs too) and the runtimes that artifacts are proved in (4 GB) once; ORT_DYLIB_PATH, QONNX_PYTHON,
# QONNX_CHROMIUM and QONNX_RUNTIME_*, where set, are used instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "test.sh: $*" >&2
    exit 1
}

heading() {
    printf '\n== %s (%ds)\n' "$1" "$SECONDS"
}

command -v cargo >/dev/null || fail "cargo is not there; install the Rust toolchain from https://rustup.rs"
for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 || fail "cargo $component is not there; run: rustup component add rustfmt clippy"
done

heading "ONNX Runtime, Python packages, Chromium, strace and bindfs"
# Two steps each, because an `export x=$(…)` would hide a failure.
ORT_DYLIB_PATH=${ORT_DYLIB_PATH:-$(scripts/get-onnxruntime.sh)}
QONNX_PYTHON=${QONNX_PYTHON:-$(scripts/python-env.sh)}
QONNX_CHROMIUM=${QONNX_CHROMIUM:-$(scripts/get-chromium.sh)}
# A test whose tool is missing is then a failure, not a line that it was not run.
QONNX_TESTS=all
export ORT_DYLIB_PATH QONNX_PYTHON QONNX_CHROMIUM QONNX_TESTS
scripts/install-packages.sh test
echo "$ORT_DYLIB_PATH"
echo "$QONNX_PYTHON"
echo "$QONNX_CHROMIUM"

heading "foreign runtimes"
QONNX_RUNTIME_GENAI=${QONNX_RUNTIME_GENAI:-$(scripts/runtime-env.sh genai)}
QONNX_RUNTIME_OPTIMUM=${QONNX_RUNTIME_OPTIMUM:-$(scripts/runtime-env.sh optimum)}
QONNX_RUNTIME_READERS=${QONNX_RUNTIME_READERS:-$(scripts/runtime-env.sh readers)}
QONNX_RUNTIME_OPENVINO=${QONNX_RUNTIME_OPENVINO:-$(scripts/runtime-env.sh openvino)}
QONNX_RUNTIME_OLDEST=${QONNX_RUNTIME_OLDEST:-$(scripts/runtime-env.sh oldest)}
QONNX_RUNTIME_NODE=${QONNX_RUNTIME_NODE:-$(scripts/runtime-env.sh transformersjs)}
export QONNX_RUNTIME_GENAI QONNX_RUNTIME_OPTIMUM QONNX_RUNTIME_READERS QONNX_RUNTIME_OPENVINO QONNX_RUNTIME_OLDEST QONNX_RUNTIME_NODE
printf '%s\n' "$QONNX_RUNTIME_GENAI" "$QONNX_RUNTIME_OPTIMUM" "$QONNX_RUNTIME_READERS" "$QONNX_RUNTIME_OPENVINO" "$QONNX_RUNTIME_OLDEST" "$QONNX_RUNTIME_NODE"

heading "formatting"
cargo fmt --check

heading "clippy"
cargo clippy --locked --all-targets -- -D warnings

heading "features"
# Each part alone, and none: what a build lacks must leave nothing unused behind.
for features in "" hub parquet report; do
    cargo clippy --quiet --locked --lib --bins --no-default-features --features "$features" -- -D warnings
done

heading "tests"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --locked 2>&1 | tee "$log"

heading "all passed"
awk '/^test result:/ { passed += $4; failed += $6 } END { print passed " passed, " failed " failed" }' "$log"
