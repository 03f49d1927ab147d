#!/usr/bin/env bash
# Runs services of the study, in Docker or on this machine.
#
#   ./run.sh [--bare] [--print] SERVICE... [-- ARGUMENT...]
#
# Services, run in the order given:
#   quick       baseline, INT8 and INT4 on the embedded model, in minutes; records and report to results/quick
#   full-run    every method on Llama-3.2-1B, and the report; stopped, it goes on where it was
#   baseline    one experiment on Llama-3.2-1B: f16
#   bnb-8bit    one experiment on Llama-3.2-1B: LLM.int8
#   bnb-4bit    one experiment on Llama-3.2-1B: NF4
#   quant       a shell with qonnx in it
#   figures     figures, REPORT.md, report.html and report.pdf from the records in results/
#
#   --bare      without Docker: installs Rust, ONNX Runtime (its CUDA build where nvidia-smi is) and qonnx for this user first.
#               QONNX=/path/to/qonnx runs that binary and installs nothing.
#   --print     prints each service's command and runs nothing
#   --          what follows is added to each service's command
#
# Records and reports go to results/. HF_TOKEN and the like come from the environment or from .env (see env.example).
#
# Examples:
#   ./run.sh quick
#   ./run.sh --bare quick
#   HF_TOKEN=hf_… ./run.sh full-run
#   ./run.sh baseline bnb-8bit figures
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

wrong() {
    echo "run.sh: $*; see ./run.sh --help" >&2
    exit 2
}

# command_of SERVICE: its command in the array `command`, the same as in docker-compose.yaml.
command_of() {
    case "$1" in
    quick) command=(qonnx sweep benches/sweeps/quick.toml --results results/quick --report) ;;
    full-run) command=(qonnx sweep benches/sweeps/llama-3.2-1b.toml --report) ;;
    baseline) command=(qonnx run fp16_baseline --model meta-llama/Llama-3.2-1B --ep cuda --bench-batch 1,4,16 --bench-prompt 128,512 --bench-gen 128) ;;
    bnb-8bit) command=(qonnx run bnb_8bit --model meta-llama/Llama-3.2-1B --ep cuda --bench-batch 1,4,16 --bench-prompt 128,512 --bench-gen 128 --calibration c4-128x2048) ;;
    bnb-4bit) command=(qonnx run bnb_4bit_nf4 --model meta-llama/Llama-3.2-1B --ep cuda --bench-batch 1,4,16 --bench-prompt 128,512 --bench-gen 128) ;;
    quant) command=(bash) ;;
    figures) command=(qonnx report results/) ;;
    *) wrong "unknown service '$1'; expected quick, full-run, baseline, bnb-8bit, bnb-4bit, quant or figures" ;;
    esac
    command+=(${added[@]+"${added[@]}"})
}

# NAME=value lines of .env; what the environment has already stays.
read_env() {
    local line name
    [ -e .env ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        case "$line" in
        "" | "#"*) continue ;;
        esac
        name=${line%%=*}
        [[ $line == *=* && $name =~ ^[A-Za-z_][A-Za-z_0-9]*$ ]] || fail ".env: expected NAME=value, got a line that begins with '${name:0:20}'"
        [ -n "${!name-}" ] || [ -z "${line#*=}" ] || export "$name=${line#*=}"
    done <.env
}

# Whatever is missing of what the Dockerfile's first stage makes, made by the same scripts.
prepare_bare() {
    local cuda=() library
    if [ -n "${QONNX-}" ]; then
        [ -x "$QONNX" ] || fail "QONNX=$QONNX is not a program"
        mkdir -p .bare/bin
        ln -sf "$(realpath "$QONNX")" .bare/bin/qonnx
    else
        scripts/install-packages.sh build
        scripts/install-rust.sh
        if [ -z "${ORT_DYLIB_PATH-}" ]; then
            ! nvidia-smi -L >/dev/null 2>&1 || cuda=(--cuda)
            library=$(scripts/get-onnxruntime.sh ${cuda[@]+"${cuda[@]}"})
            export ORT_DYLIB_PATH=$library
        fi
        scripts/install-qonnx.sh .bare
    fi
    export PATH="$PWD/.bare/bin:$PATH"
}

prepare_docker() {
    command -v docker >/dev/null || fail "docker is not there; install it, or run without it: ./run.sh --bare ${services[*]}"
    docker compose version >/dev/null 2>&1 || fail "docker has no compose; install docker-compose-plugin, or run without Docker: ./run.sh --bare ${services[*]}"
    docker info >/dev/null 2>&1 || fail "the Docker daemon does not answer; start it, or run without Docker: ./run.sh --bare ${services[*]}"
    docker info --format '{{json .Runtimes}}' | grep -q nvidia ||
        fail "Docker sees no NVIDIA GPU; install nvidia-container-toolkit, or run on the CPU without Docker: ./run.sh --bare ${services[*]}"
    QONNX_UID=$(id -u) QONNX_GID=$(id -g)
    export QONNX_UID QONNX_GID
    docker compose build quick
}

bare=no print=no services=() added=()
while [ $# -gt 0 ]; do
    argument=$1
    shift
    case "$argument" in
    --)
        added=("$@")
        break
        ;;
    -h | --help)
        sed -n '2,/^set -euo/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    --bare) bare=yes ;;
    --print) print=yes ;;
    -*) wrong "unknown flag '$argument'" ;;
    *)
        command_of "$argument"
        services+=("$argument")
        ;;
    esac
done
[ ${#services[@]} -gt 0 ] || wrong "name a service: quick, full-run, baseline, bnb-8bit, bnb-4bit, quant or figures"

if [ "$print" = yes ]; then
    for service in "${services[@]}"; do
        command_of "$service"
        echo "${command[*]}"
    done
    exit 0
fi

# Made here, because Docker would make it root's.
mkdir -p results
read_env
if [ "$bare" = yes ]; then prepare_bare; else prepare_docker; fi
for service in "${services[@]}"; do
    command_of "$service"
    echo "== $service: ${command[*]} (${SECONDS}s)" >&2
    if [ "$bare" = yes ]; then
        "${command[@]}"
    else
        docker compose run --rm "$service" "${command[@]}"
    fi
done
