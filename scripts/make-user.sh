#!/usr/bin/env bash
# Makes the user that a container runs as, and the folders that it writes to.
#
#   scripts/make-user.sh
#
# For images, not for a machine that people work on. The folders are open to every user, because a container may be started as
# whoever owns the mounted results/. Needs root.
set -euo pipefail

fail() {
    echo "make-user.sh: $*" >&2
    exit 1
}

case "${1-}" in
"") ;;
-h | --help)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*)
    echo "make-user.sh: unknown argument '$1'; it takes none" >&2
    exit 2
    ;;
esac
[ "$(id -u)" = 0 ] || fail "needs root"

getent passwd qonnx >/dev/null || useradd --uid 10001 --user-group --no-create-home --home-dir /study --shell /bin/bash qonnx
mkdir -p /study/results /study/artifacts /cache/huggingface
chown qonnx:qonnx /study /study/results /study/artifacts /cache /cache/huggingface
chmod 1777 /study /study/results /study/artifacts /cache /cache/huggingface
