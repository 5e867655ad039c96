#!/usr/bin/env bash
# Builds the Debian packages: one for each release and architecture, as its extension is bound to an
# interpreter. Both architectures are compiled by this machine; nothing is emulated.
set -euo pipefail

usage() {
    cat <<'END'
usage: image/build-debs.sh [OPTION]...
  --suite NAME       bookworm or trixie; may be repeated (default: both)
  --arch NAME        amd64 or arm64; may be repeated (default: both)
  --revision N       the part of the version after "-" (default: 1)
  --output DIR       where the packages go (default: dist)
  --mirror URL       of Debian (default: http://deb.debian.org/debian)

Needs root, mmdebstrap, and a Python with pip: $PYTHON, or .venv/bin/python. What is fetched stays
below build/debs; a second run needs no network. The date in the packages is $SOURCE_DATE_EPOCH, or
that of the last commit.
END
}

fail() {
    echo "build-debs: $1" >&2
    exit "${2:-1}"
}

say() {
    echo "build-debs: $1 ($SECONDS s)"
}

declare -A PYTHONS=([bookworm]=3.11 [trixie]=3.13) MACHINES=([amd64]=x86_64 [arm64]=aarch64)
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
here=$(dirname "$(readlink -f "$0")")
source=$(dirname "$here")
cache=$source/build/debs
output=$source/dist
mirror=http://deb.debian.org/debian
revision=1
suites=()
architectures=()

while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage && exit 0 ;;
    --suite | --arch | --revision | --output | --mirror)
        [ $# -gt 1 ] || fail "$1: needs a value; see --help" 64
        ;;&
    --suite) suites+=("$2") ;;
    --arch) architectures+=("$2") ;;
    --revision) revision=$2 ;;
    --output) output=$(realpath -m "$2") ;;
    --mirror) mirror=$2 ;;
    *) fail "$1: is not an option; see --help" 64 ;;
    esac
    shift 2
done
[ ${#suites[@]} -gt 0 ] || suites=(bookworm trixie)
[ ${#architectures[@]} -gt 0 ] || architectures=(amd64 arm64)
for suite in "${suites[@]}"; do
    [ -n "${PYTHONS[$suite]:-}" ] || fail "$suite: is neither bookworm nor trixie" 64
done
for arch in "${architectures[@]}"; do
    [ -n "${MACHINES[$arch]:-}" ] || fail "$arch: is neither amd64 nor arm64" 64
done
[[ $revision =~ ^[0-9][0-9A-Za-z.+~]*$ ]] || fail "--revision $revision: begins with a digit" 64

[ "$(id -u)" = 0 ] || fail "needs root, to enter roots of Debian: sudo $0" 77
command -v mmdebstrap >/dev/null || fail "needs mmdebstrap: apt-get install mmdebstrap" 69
[ -e $KEYRING ] || fail "needs Debian's keys: apt-get install debian-archive-keyring" 69
python=${PYTHON:-$source/.venv/bin/python}
"$python" -m pip --version >/dev/null 2>&1 ||
    fail "needs a Python with pip, not $python: set PYTHON, or run make debs" 69

native=$(dpkg --print-architecture)
case $native in
amd64) foreign=arm64 ;;
arm64) foreign=amd64 ;;
*) fail "runs on amd64 and arm64, not on $native" 69 ;;
esac
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/pyproject.toml")
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$source" log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
mkdir -p "$cache" "$output"
exec 9>"$cache/lock"
flock --nonblock 9 || { say "waits for another build" && flock 9; }

# once TARGET INGREDIENTS COMMAND...: makes TARGET unless it is there, of the same ingredients.
once() {
    local target=$1 ingredients=$2
    shift 2
    [ -e "$target" ] && [ "$(cat "$target.made-of" 2>/dev/null)" = "$ingredients" ] && return
    rm -rf --one-file-system "$target" "$target.made-of" "$target.new"
    "$@" "$target.new"
    mv "$target.new" "$target"
    echo "$ingredients" >"$target.made-of"
}

make_root() { # make_root SUITE TARGET
    say "$1: a root of Debian with compilers for $native and $foreign"
    mmdebstrap --quiet --mode=root --variant=apt --architectures="$native,$foreign" \
        --include="$ROOT_PACKAGES" "$1" "$2" "deb [signed-by=$KEYRING] $mirror $1 main"
}

fetch_wheels() { # fetch_wheels PYTHON TARGET
    say "Python $1: wheels for amd64 and arm64"
    local arch
    for arch in amd64 arm64; do
        fetch "$1" "${MACHINES[$arch]}" "$here/debs/requirements.txt" "$2"
    done
    fetch "$1" "${MACHINES[$native]}" "$here/debs/build-requirements.txt" "$2"
}

fetch() { # fetch PYTHON MACHINE REQUIREMENTS TARGET
    local platforms=() name
    for name in manylinux2014 manylinux_2_28 manylinux_2_31 manylinux_2_34; do
        platforms+=(--platform "${name}_$2")
    done
    "$python" -m pip --quiet --disable-pip-version-check download --no-deps --require-hashes \
        --only-binary :all: --implementation cp --python-version "$1" "${platforms[@]}" \
        --requirement "$3" --dest "$4"
}

# Without a network: what the packages hold came through `fetch`, with its digest.
enter() { # enter ROOT COMMAND...
    # shellcheck disable=SC2016 # expanded by the shell that has the mounts
    unshare --mount --pid --net --fork --kill-child bash -euc \
        'mount -t proc proc "$0/proc"; mount -t tmpfs tmpfs "$0/tmp"
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
            SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" chroot "$0" "$@"' "$@"
}

build() { # build SUITE
    local root=$cache/$1-$native wheels=$cache/wheels-${PYTHONS[$1]}
    once "$root" "$ROOT_PACKAGES" make_root "$1"
    once "$wheels" "$(cat "$here"/debs/*requirements.txt)" fetch_wheels "${PYTHONS[$1]}"
    rm -rf --one-file-system "$root/build"
    mkdir -p "$root/build/source"
    # What git knows or would, so that no build of before and no secret gets in.
    (cd "$source" && git ls-files --cached --others --exclude-standard -z -- \
        edge systemd docs examples/edge.toml image/debs pyproject.toml README.md LICENSE CHANGELOG.md |
        tar --create --null --files-from=- --ignore-failed-read 2>/dev/null) |
        tar --extract --directory "$root/build/source"
    cp -r "$wheels" "$root/build/wheels"
    say "$1: ${architectures[*]}"
    enter "$root" bash /build/source/image/debs/inside.sh "$version" "$revision" "$1" \
        "$native" "${architectures[@]}"
    cp "$root"/build/out/*.deb "$output"
    rm -rf --one-file-system "$root/build"
}

declare -A COMPILERS=([amd64]=gcc-x86-64-linux-gnu [arm64]=gcc-aarch64-linux-gnu)
ROOT_PACKAGES=python3-dev,python3-venv,libpython3-dev:$foreign,libstdc++6:$foreign,gcc
ROOT_PACKAGES+=,${COMPILERS[$foreign]},dpkg-dev
for suite in "${suites[@]}"; do
    build "$suite"
done
say "done"
(cd "$output" && ls -sh1 edge_"$version-$revision"+*.deb)
