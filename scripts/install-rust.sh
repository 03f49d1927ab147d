#!/usr/bin/env bash
# Installs the Rust toolchain that qonnx is built with, without touching shell profiles. A toolchain that is new enough stays as it is.
#
#   scripts/install-rust.sh
#
# rustup's installer comes from static.rust-lang.org, checked against the SHA-256 below, and goes to CARGO_HOME [~/.cargo] and
# RUSTUP_HOME [~/.rustup]. Needs curl, no administrator rights.
set -euo pipefail
toolchain=1.95.0
least=1.92 # rust-version of Cargo.toml
rustup=1.28.2

fail() {
    echo "install-rust.sh: $*" >&2
    exit 1
}

case "${1-}" in
"") ;;
-h | --help)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*)
    echo "install-rust.sh: unknown argument '$1'; it takes none" >&2
    exit 2
    ;;
esac

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
found=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || found=""
if [ -n "$found" ] && [ "$(printf '%s\n' "$least" "$found" | sort -V | head -n 1)" = "$least" ]; then
    echo "cargo $found is there" >&2
    exit 0
fi

case "$(uname -s)-$(uname -m)" in
Linux-x86_64) host=x86_64-unknown-linux-gnu sha256=20a06e644b0d9bd2fbdbfd52d42540bdde820ea7df86e92e533c073da0cdd43c ;;
Linux-aarch64) host=aarch64-unknown-linux-gnu sha256=e3853c5a252fca15252d07cb23a1bdd9377a8c6f3efa01531109281ae47f841c ;;
*) fail "no pinned installer for $(uname -s) on $(uname -m); install Rust $least or newer from https://rustup.rs" ;;
esac
command -v curl >/dev/null || fail "curl is not there; install it (Debian: apt install curl ca-certificates)"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
curl --proto '=https' --tlsv1.2 --fail --silent --show-error --location --retry 3 --output "$work/rustup-init" \
    "https://static.rust-lang.org/rustup/archive/$rustup/$host/rustup-init" || fail "rustup $rustup could not be downloaded; check the network"
echo "$sha256  $work/rustup-init" | sha256sum --check --quiet - >&2 || fail "rustup-init is not the file this script knows; nothing was installed"
chmod 755 "$work/rustup-init"
"$work/rustup-init" -y --quiet --no-modify-path --profile minimal --default-toolchain "$toolchain" || fail "rustup could not install Rust $toolchain"
cargo --version
