#!/usr/bin/env bash
# Finds Chromium and its driver for the test of report.html, installs them from Debian's packages where they are missing and
# this is root, and prints the browser's path, for QONNX_CHROMIUM.
#
#   QONNX_CHROMIUM=$(scripts/get-chromium.sh)
#
# The driver (chromedriver) has to be on the PATH or beside the browser, of the same version as it.
set -euo pipefail

fail() {
    echo "get-chromium.sh: $*" >&2
    exit 1
}

found() {
    command -v chromedriver >/dev/null && { command -v chromium || command -v chromium-browser || command -v google-chrome; }
}

if ! found >/dev/null; then
    command -v apt-get >/dev/null || fail "Chromium and chromedriver are not there; install both and put them on the PATH"
    [ "$(id -u)" = 0 ] || fail "Chromium and chromedriver are not there; run: sudo apt-get install -y chromium chromium-driver"
    echo "installing chromium and chromium-driver" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2 || fail "apt-get update failed; check the network and the lines above"
    apt-get install -y -qq --no-install-recommends chromium chromium-driver >&2 || fail "apt-get could not install chromium; check the lines above"
fi
found || fail "chromium was installed, and is still not on the PATH; set QONNX_CHROMIUM to it"
