#!/bin/bash
# Builds an image; see usage below.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$here")

usage() {
    cat <<EOF
usage: image/build.sh [option...]

Builds an image out of Debian's packages and the package of edge.

  --board pi|vm-amd64|vm-arm64   what it is for (default: pi)
  --deb FILE           the package of edge (default: the newest in dist/ for Debian $suite)
  --config FILE        its edge.toml, until a board gets one of its own
  --bundle FILE.tar    a bundle that it brings, with its code compiled for the board: an OCI layout,
                       named by --config; may be repeated
  --update-key FILE    public key, PEM: updates that it signed are taken (default: none is)
  --version N          a whole number, larger than that of the image before (default: the time of
                       the last commit)
  --cache DIR          downloaded packages and made roots (default: .image)
  --output DIR         where the image goes (default: dist)
  --mirror URL         of Debian (default: $mirror)
  --refresh            ask the mirror for newer packages; without it the cache decides
  --help
EOF
}

suite=trixie
board=pi
deb=
config=
bundles=()
update_key=
version=
cache=$repository/.image
output=$repository/dist
mirror=http://deb.debian.org/debian
refresh=

# shellcheck source=image/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=image/lib/packages.sh
. "$here/lib/packages.sh"
# shellcheck source=image/lib/base.sh
. "$here/lib/base.sh"
# shellcheck source=image/lib/root.sh
. "$here/lib/root.sh"
# shellcheck source=image/lib/preload.sh
. "$here/lib/preload.sh"
# shellcheck source=image/lib/tryboot.sh
. "$here/lib/tryboot.sh"
# shellcheck source=image/lib/boot.sh
. "$here/lib/boot.sh"
# shellcheck source=image/lib/disk.sh
. "$here/lib/disk.sh"

main() {
    arguments "$@"
    need_root
    need_programs mmdebstrap mksquashfs mke2fs mkfs.vfat mcopy sfdisk zstd dpkg-scanpackages qemu-img ip depmod
    need_architecture
    [ -n "$deb" ] || deb=$(newest_deb)
    [ -n "$version" ] || version=$(git -C "$repository" log -1 --format=%ct)
    case $version in
    *[!0-9]* | "") fail "--version is a whole number, not '$version'" ;;
    esac

    # Every date in the image is this one: the same input gives the same bytes.
    SOURCE_DATE_EPOCH=$version
    export SOURCE_DATE_EPOCH
    export LC_ALL=C.UTF-8 TZ=UTC

    work=$cache/work-$board
    discard "$work"
    mkdir -p "$work" "$output"
    trap 'discard "$work"' EXIT

    fetch_packages
    make_root
    make_boot
    make_state
    make_disk
}

arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --board) board=${2:?} && shift ;;
        --deb) deb=$(realpath -e "${2:?}") && shift ;;
        --config) config=$(realpath -e "${2:?}") && shift ;;
        --bundle) bundles+=("$(realpath -e "${2:?}")") && shift ;;
        --update-key) update_key=$(realpath -e "${2:?}") && shift ;;
        --version) version=${2:?} && shift ;;
        --cache) cache=$(realpath -m "${2:?}") && shift ;;
        --output) output=$(realpath -m "${2:?}") && shift ;;
        --mirror) mirror=${2:?} && shift ;;
        --refresh) refresh=yes ;;
        --help) usage && exit 0 ;;
        *) usage >&2 && exit 64 ;;
        esac
        shift
    done
    [ ${#bundles[@]} = 0 ] || [ -n "$config" ] || fail "--bundle needs --config: what names the bundle"
    case $board in
    pi | vm-arm64) architecture=arm64 ;;
    vm-amd64) architecture=amd64 ;;
    *) echo "build.sh: no board '$board': pi, vm-amd64 or vm-arm64" >&2 && exit 64 ;;
    esac
}

# The last line: a file that changes while it runs must not be read on.
main "$@"; exit
