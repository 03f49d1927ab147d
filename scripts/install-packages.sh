#!/usr/bin/env bash
# Installs what a step needs from Debian's (or Ubuntu's) own packages, and nothing where it is all there.
#
#   scripts/install-packages.sh build     to build qonnx and to fetch ONNX Runtime: a C and C++ compiler, curl, python3 with pip
#   scripts/install-packages.sh run       to run qonnx: certificates for the hub
#   scripts/install-packages.sh test      for tests of faults: calls that fail, a file system that keeps deleted files
#
# Needs root where a package is missing.
set -euo pipefail

fail() {
    echo "install-packages.sh: $*" >&2
    exit 1
}

case "${1-}" in
build) packages="ca-certificates curl g++ gcc libc6-dev python3 python3-pip" ;;
run) packages="ca-certificates" ;;
test) packages="bindfs strace" ;;
-h | --help)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*)
    echo "install-packages.sh: unknown argument '${1-}'; give build, run or test" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    fail "this is neither Debian nor Ubuntu; install the counterparts of these packages with the system's own tool: $packages"
fi
missing=""
for package in $packages; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || state=absent
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

[ "$(id -u)" = 0 ] || fail "missing packages:$missing; run: sudo apt-get install$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet || fail "apt-get update failed; check the network and /etc/apt/sources.list"
# shellcheck disable=SC2086 # one word a package
apt-get install --quiet --yes --no-install-recommends $missing || fail "apt-get could not install$missing; see the lines above"
rm -rf /var/lib/apt/lists/*
