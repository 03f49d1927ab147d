#!/usr/bin/env bash
# Plays the Dockerfile without Docker: each stage in a copy of a bare Debian, each RUN in it by chroot, each COPY from what Docker
# would be sent; then, as the image's user, a small export and every service's command with --help. Shows that each layer's commands
# run on a bare Debian.
#
#   scripts/prove-layers.sh DEBIAN WORK
#
#   debootstrap --variant=minbase bookworm /tmp/debian
#   scripts/prove-layers.sh /tmp/debian /tmp/layers
#
# DEBIAN stands in for both base images, so CUDA's own libraries are what it does not show. WORK must not exist; the stages stay there as
# WORK/<stage>, 4 GB. Needs root and the network, and takes as long as a release build.
set -euo pipefail

fail() {
    echo "prove-layers.sh: $*" >&2
    exit 1
}

case "${1-}" in
-h | --help)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
[ $# = 2 ] || {
    echo "prove-layers.sh: expected DEBIAN WORK; see --help" >&2
    exit 2
}
[ "$(id -u)" = 0 ] || fail "needs root, for chroot"
# In a mount namespace of its own: what is mounted below goes away with it, however the script ends.
[ -n "${PROVE_LAYERS_INSIDE-}" ] || PROVE_LAYERS_INSIDE=yes exec unshare --mount "$0" "$@"
debian=$(realpath "$1")
work=$2
[ -x "$debian/usr/bin/apt-get" ] || fail "$debian is no Debian; make one with debootstrap --variant=minbase bookworm $debian"
mkdir "$work" || fail "$work must not exist"
work=$(realpath "$work")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What Docker is sent: files that git knows or would, less those of .dockerignore (plain names at the top, which tar reads alike).
mkdir "$work/context"
git ls-files -z --cached --others --exclude-standard |
    tar --create --anchored --exclude-from=.dockerignore --ignore-failed-read --null --files-from=- | tar --extract --directory "$work/context"

root="" dir=/ user=root
environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root)

inside() { # COMMAND…: in the stage's root, with its environment, user and folder
    chroot --userspec="$user" "$root" /usr/bin/env -i "${environment[@]}" /bin/sh -c "cd $dir && exec \"\$@\"" sh "$@"
}

begin_stage() { # BASE as NAME
    local name=${3-stage}
    root=$work/$name dir=/ user=root
    environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root)
    cp --archive --reflink=auto "$debian" "$root"
    mount --types proc proc "$root/proc"
    # The network as the host has it, its certificates too.
    cp --dereference /etc/resolv.conf /etc/hosts "$root/etc/"
    mkdir -p "$root/usr/local/share/ca-certificates"
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$root/usr/local/share/ca-certificates/" \;
}

copy() { # [--from=STAGE] SOURCE… TARGET
    local from=$work/context target source
    case "$1" in
    --from=*)
        from=$work/${1#--from=}
        shift
        ;;
    esac
    target=${!#}
    [ "${target#/}" != "$target" ] || target=$dir/$target
    for source in "${@:1:$#-1}"; do
        if [ -d "$from/$source" ]; then
            mkdir -p "$root$target"
            cp --recursive "$from/$source/." "$root$target"
        else
            # A target that ends with / is a folder, any other the file's new name.
            case "$target" in */) mkdir -p "$root$target" ;; *) mkdir -p "$root$(dirname "$target")" ;; esac
            cp "$from/$source" "$root$target"
        fi
    done
}

while read -r instruction rest; do
    case "$instruction" in
    "" | "#"*) continue ;;
    esac
    echo "== $instruction $rest (${SECONDS}s)" >&2
    read -ra words <<<"$rest"
    case "$instruction" in
    FROM) begin_stage "${words[@]}" ;;
    WORKDIR)
        dir=$rest
        mkdir -p "$root$dir"
        ;;
    COPY) copy "${words[@]}" ;;
    ENV) environment+=("$rest") ;;
    RUN) inside "${words[@]}" || fail "$rest fails on a bare Debian" ;;
    USER) user=$rest ;;
    VOLUME | CMD) ;;
    *) fail "Dockerfile: unknown instruction $instruction" ;;
    esac
done <Dockerfile

inside qonnx --version
inside qonnx doctor || true # says what is missing here: a GPU
inside qonnx export fixtures/tiny-coqa --bits 4 --dtype f32 -o artifacts/int4
inside qonnx generate artifacts/int4 "The village lies in" --max-new-tokens 8
for service in quick full-run baseline bnb-8bit bnb-4bit figures; do
    read -ra command <<<"$(./run.sh --print "$service")"
    echo "== $service: ${command[*]} --help (${SECONDS}s)" >&2
    inside "${command[@]}" --help >/dev/null || fail "service $service: ${command[*]} is not a command of qonnx"
done
inside touch results/.written artifacts/.written
echo "== every layer runs (${SECONDS}s)" >&2
