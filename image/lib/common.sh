# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that build.sh and the files beside this one set
# Sourced by build.sh.

started=$SECONDS

say() {
    printf 'image: %4d s  %s\n' "$((SECONDS - started))" "$*" >&2
}

fail() {
    printf 'image: %s\n' "$*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "needs root, to keep the owners of files: sudo image/build.sh"
}

need_programs() {
    local program missing=()
    for program; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    [ ${#missing[@]} = 0 ] || fail "missing programs: ${missing[*]}; as root: .ci/packages image"
}

# Programs of another architecture run by QEMU, if the kernel is told so.
need_architecture() {
    local handler=/proc/sys/fs/binfmt_misc/qemu-aarch64
    [ "$architecture" = arm64 ] && [ "$(dpkg --print-architecture)" != arm64 ] || return 0
    [ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    [ -e "$handler" ] || update-binfmts --enable qemu-aarch64 || true
    grep -qs '^enabled' "$handler" ||
        fail "this machine does not run programs of arm64; as root: .ci/packages image"
}

# A tree that may still have something mounted in it is never removed through the mount.
discard() {
    local point
    [ -e "$1" ] || return 0
    while read -r point; do
        umount --lazy "$point"
    done < <(awk -v top="$1/" 'index($2, top) == 1 { print $2 }' /proc/mounts | sort -r)
    rm -rf --one-file-system "$1"
}

newest_deb() {
    local found
    found=$(find "$repository/dist" -name "edge_*+deb13_$architecture.deb" -printf '%T@ %p\n' \
        2>/dev/null | sort -n | tail -1 | cut -d' ' -f2-)
    [ -n "$found" ] || fail "no package of edge for $suite/$architecture in dist: make debs" \
        "ARGS='--suite $suite --arch $architecture'"
    printf '%s\n' "$found"
}

# All times in a tree that are later than the image's date become that date.
clamp_times() {
    find "$1" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference \
        --date="@$SOURCE_DATE_EPOCH" {} +
}
