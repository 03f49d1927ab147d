#!/usr/bin/env bash
# Builds qonnx and puts the binary at PREFIX/bin/qonnx.
#
#   scripts/install-qonnx.sh PREFIX
#
# Needs a Rust toolchain (scripts/install-rust.sh) and a C++ compiler (scripts/install-packages.sh build). The crates are those of
# Cargo.lock, exactly. Run again, it builds what changed.
set -euo pipefail

fail() {
    echo "install-qonnx.sh: $*" >&2
    exit 1
}

case "${1-}" in
-h | --help)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
"" | -*)
    echo "install-qonnx.sh: expected a folder, got '${1-}'; for example /opt/qonnx" >&2
    exit 2
    ;;
esac
mkdir -p "$1" || fail "cannot write $1"
prefix=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
command -v cargo >/dev/null || fail "cargo is not there; run scripts/install-rust.sh"
command -v c++ >/dev/null || fail "there is no C++ compiler; run scripts/install-packages.sh build"
# --force: the binary of an older tree with the same version number is replaced. --no-track: PREFIX holds the binary and nothing else.
cargo install --quiet --locked --force --no-track --path . --root "$prefix" >&2 || fail "qonnx could not be built; see the lines above"
echo "$prefix/bin/qonnx"
