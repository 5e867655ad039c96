# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that build.sh and the files beside this one set
# Sourced by build.sh. Partitions, written straight into a file: no loop device.

# MiB. The root's slots have room for twice what is in them today.
readonly boot_mib=256 root_mib=512 state_mib=64
readonly disk_id=ed9e5afe
readonly state_uuid=ed9e5afe-0004-4000-8000-000000000004

# The state partition of a fresh card: small, it grows on the first boot.
make_state() {
    state=$work/state
    mkdir -p "$state"
    mkdir -p "$state/edge"
    cp -a "$brought/." "$state/edge/"
    chown -R "$edge_id:$edge_id" "$state/edge"
    chmod 750 "$state/edge"
    clamp_times "$state"
}

make_disk() {
    local name=edge-$board-$version disk=$work/disk.img
    local boot_at=4 root_at=$((4 + boot_mib)) state_at=$((4 + boot_mib + 2 * root_mib))
    [ "$(stat -c %s "$work/root.sqfs")" -le $((root_mib << 20)) ] ||
        fail "the root is larger than its slot of $root_mib MiB"
    local state_size
    state_size=$((state_mib + $(du -sm "$state" | cut -f1)))
    say "disk: partitions"
    truncate -s "$((state_at + state_size))M" "$disk"
    sfdisk --quiet "$disk" <<EOF
label: dos
label-id: 0x$disk_id
unit: sectors
start=$((boot_at * 2048)), size=$((boot_mib * 2048)), type=$(boot_type), bootable
start=$((root_at * 2048)), size=$((root_mib * 2048)), type=83
start=$(((root_at + root_mib) * 2048)), size=$((root_mib * 2048)), type=83
start=$((state_at * 2048)), size=$((state_size * 2048)), type=83
EOF
    # Small clusters: FAT32 has at least 65,525 of them, and readers tell it from FAT16 by that.
    mkfs.vfat -F 32 -s 2 -n EDGE-BOOT -i "$disk_id" --invariant --offset="$((boot_at * 2048))" \
        "$disk" "$((boot_mib * 1024))" >/dev/null 2>&1
    # shellcheck disable=SC2016 # for the inner shell
    find "$boot" -mindepth 1 -maxdepth 1 -print0 | sort -z |
        xargs -0 sh -c 'mcopy -s -m -Q -i "$0" "$@" ::' "$disk@@${boot_at}M"
    dd if="$work/root.sqfs" of="$disk" bs=1M seek="$root_at" conv=notrunc,sparse status=none
    E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -d "$state" -L EDGE-STATE \
        -U "$state_uuid" -E "hash_seed=$state_uuid,root_owner=0:0,offset=$((state_at << 20)),lazy_itable_init=1" \
        -m 1 "$disk" "${state_size}M"
    constant_times "$disk?offset=$((state_at << 20))"
    finish "$disk" "$output/$name"
}

# When a file was read, and its inode changed: mke2fs takes both over from a tree, where the one is
# touched by reading it and the other cannot be set.
constant_times() {
    local name
    find "$state" -printf '/%P\n' | sort | while read -r name; do
        printf "set_inode_field \"$name\" %s @$SOURCE_DATE_EPOCH\n" atime ctime
    done | E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH debugfs -w -f - "$1" >/dev/null 2>&1
}

boot_type() {
    case $board in
    pi) echo c ;; # FAT32, LBA
    *) echo ef ;; # EFI system partition
    esac
}

finish() {
    local disk=$1 name=$2
    case $board in
    pi)
        say "disk: compressing"
        nice zstd --quiet --force -T0 -12 "$disk" -o "$name.img.zst"
        seal "$name.img.zst"
        ;;
    *)
        # Without a fixed size of its own a disk could not grow where it runs.
        qemu-img convert -q -c -f raw -O qcow2 "$disk" "$name.qcow2"
        seal "$name.qcow2"
        ;;
    esac
    pack_update "$name"
}

seal() {
    (cd "$(dirname "$1")" && sha256sum "$(basename "$1")" >"$(basename "$1").sha256")
    say "$(basename "$1"): $(du -h --apparent-size "$1" | cut -f1)"
}

# What `edge-image update` takes once it is signed (image/sign.sh).
pack_update() {
    local folder=$work/update
    mkdir "$folder"
    tar -C "$slot" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        -cf "$folder/slot.tar" .
    ln "$work/root.sqfs" "$folder/root.sqfs"
    python3 -I "$here/lib/manifest.py" "$folder" "$version" "$board" >"$folder/manifest.json"
    tar -C "$folder" --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        -cf "$1.update" manifest.json slot.tar root.sqfs
    say "$(basename "$1").update: $(du -h --apparent-size "$1.update" | cut -f1)"
}
