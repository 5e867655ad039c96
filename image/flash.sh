#!/bin/bash
# Writes an image to a card; see usage below.
set -euo pipefail

readonly boot_at=$((4 << 20)) # of the boot partition, bytes
readonly largest=$((256 << 30))

usage() {
    cat <<EOF
usage: image/flash.sh [option...] IMAGE DEVICE

Writes IMAGE (.img or .img.zst) to a card, reads it back, and puts settings on its boot partition.
DEVICE is a whole, removable disk like /dev/sdb or /dev/mmcblk0, or an image file to be made.

  --setup DIR     what goes into setup/ of the boot partition: edge.toml, token, authorized_keys,
                  hostname, wifi.toml, bundles/*.tar
  --list          removable disks, and nothing else
  --yes           do not ask
  --help
EOF
}

say() { printf 'flash.sh: %s\n' "$*" >&2; }
fail() { say "$*" && exit 1; }

main() {
    setup='' yes=''
    while [ $# -gt 0 ]; do
        case $1 in
        --setup) setup=$(realpath -e "${2:?}") && shift ;;
        --list) list && exit 0 ;;
        --yes) yes=yes ;;
        --help) usage && exit 0 ;;
        -*) usage >&2 && exit 64 ;;
        *) break ;;
        esac
        shift
    done
    [ $# = 2 ] || { usage >&2 && exit 64; }
    image=$(realpath -e "$1") target=$2
    check_setup
    if [ -e "$target" ] && [ ! -f "$target" ]; then
        check_disk
        confirm
    elif [ -e "$target" ]; then
        fail "$target is a file that is there already"
    fi
    write_image
    read_back
    [ -z "$setup" ] || put_setup
    sync
    say "done: $target"
}

list() {
    lsblk --nodeps --paths --output NAME,SIZE,TRAN,VENDOR,MODEL,RM,HOTPLUG |
        awk 'NR == 1 || $(NF) == 1 || $(NF - 1) == 1'
}

check_setup() {
    local name
    [ -z "$setup" ] || command -v mcopy >/dev/null || fail "--setup needs mtools"
    [ -n "$setup" ] || return 0
    while read -r name; do
        case $name in
        edge.toml | token | authorized_keys | hostname | wifi.toml | bundles | bundles/*.tar) ;;
        *) fail "$setup/$name is no setting that an image reads" ;;
        esac
    done < <(find "$setup" -mindepth 1 -printf '%P\n')
}

# Everything that is not plainly an unused card is refused.
check_disk() {
    local kind removable hotplug size mounted
    [ -b "$target" ] || fail "$target is no disk"
    target=$(realpath "$target")
    kind=$(lsblk --nodeps --noheadings --output TYPE "$target" | tr -d ' ')
    [ "$kind" = disk ] || fail "$target is a $kind, not a whole disk"
    removable=$(lsblk --nodeps --noheadings --output RM "$target" | tr -d ' ')
    hotplug=$(lsblk --nodeps --noheadings --output HOTPLUG "$target" | tr -d ' ')
    case $target in
    /dev/mmcblk*) ;;
    *) [ "$removable$hotplug" != 00 ] || fail "$target is not removable" ;;
    esac
    mounted=$(lsblk --noheadings --output MOUNTPOINTS "$target" | grep -v '^ *$' | tr '\n' ' ' || true)
    [ -z "$mounted" ] || fail "$target is in use: $mounted"
    size=$(blockdev --getsize64 "$target")
    [ "$size" -gt 0 ] || fail "$target has no card in it"
    [ "$size" -le "$largest" ] || fail "$target has $((size >> 30)) GiB: too large for a card"
    [ ! -e "/sys/block/$(basename "$target")/holders" ] ||
        [ -z "$(ls -A "/sys/block/$(basename "$target")/holders")" ] ||
        fail "$target belongs to another device"
}

confirm() {
    local answer
    lsblk --output NAME,SIZE,MODEL,LABEL "$target" >&2
    [ -z "$yes" ] || return 0
    read -r -p "Everything on $target will be lost. Its name again: " answer
    [ "$answer" = "$target" ] || fail "nothing was written"
}

content() {
    case $image in
    *.zst) zstd -q -d -c "$image" ;;
    *) cat "$image" ;;
    esac
}

write_image() {
    say "writing"
    local flags=(conv=fsync)
    # Past the page cache, so that the progress is the card's.
    [ -f "$target" ] || [ ! -e "$target" ] || flags=(oflag=direct conv=fsync)
    [ -e "$target" ] || flags=("conv=fsync,sparse")
    content | dd of="$target" bs=4M iflag=fullblock "${flags[@]}" status=progress
}

read_back() {
    say "reading back"
    local length wanted found
    length=$(content | wc -c)
    wanted=$(content | sha256sum | cut -d' ' -f1)
    [ -f "$target" ] || blockdev --flushbufs "$target"
    found=$(head -c "$length" "$target" | sha256sum | cut -d' ' -f1)
    [ "$found" = "$wanted" ] || fail "$target does not hold what was written: the card is bad"
}

put_setup() {
    local entry
    for entry in "$setup"/*; do
        say "setup/$(basename "$entry")"
        MTOOLS_SKIP_CHECK=1 mcopy -s -o -Q -i "$target@@$boot_at" "$entry" ::setup/
    done
}

main "$@"
