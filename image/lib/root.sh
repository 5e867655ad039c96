# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that build.sh and the files beside this one set
# Sourced by build.sh. The root file system: Debian, edge, and what is in overlay/.

make_root() {
    make_base
    say "root: edge, settings"
    root=$work/root
    mkdir "$root"
    tar -C "$root" --numeric-owner -xf "$base"
    # Where the packages were mounted.
    (cd "$root" && rmdir -p --ignore-fail-on-non-empty ".$packages" 2>/dev/null) || true
    cp -a --no-preserve=ownership "$here/overlay/." "$root/"
    mkdir -p "$root/usr/lib/edge-image/ab" "$root/boot/firmware" "$root/state" "$root/var/lib/edge"
    cp --no-preserve=mode,ownership "$here"/ab/*.py "$root/usr/lib/edge-image/ab/"
    [ -z "$update_key" ] || install -m 644 "$update_key" "$root/usr/lib/edge-image/update.pub"
    describe >"$root/usr/lib/edge-image/image.json"
    cp "$deb" "$root/tmp/edge.deb"
    inside dpkg --install --force-confold /tmp/edge.deb >"$work/dpkg.log" 2>&1 ||
        { tail -20 "$work/dpkg.log" >&2 &&
            fail "the package of edge can not be installed; what it depends on is in packages/common"; }
    rm "$root/tmp/edge.deb"
    settings
    enable_units
    preload
    kernel=$(basename "$(find "$root/boot" -name 'vmlinuz-*')")
    kernel=${kernel#vmlinuz-}
    [ "$architecture" != arm64 ] || make_tryboot
    make_initrd
    mkdir "$work/kernel"
    mv "$root/boot/vmlinuz-$kernel" "$work/kernel/vmlinuz"
    cp "$initrd" "$work/kernel/initrd.img"
    clean_root
    python3 -I "$here/lib/bytecode.py" "$root/usr"
    say "root: squashfs"
    clamp_times "$root"
    nice mksquashfs "$root" "$work/root.sqfs" -comp zstd -Xcompression-level 9 -b 256K \
        -noappend -quiet -no-progress -wildcards -e 'proc/*' 'sys/*' 'dev/*' 'run/*' 'tmp/*'
    say "root: $(du -h --apparent-size "$work/root.sqfs" | cut -f1)"
}

# Debian's part and our scripts, nothing of edge: the same for many images, and slow to emulate.
make_initrd() {
    local key
    key=$({ basename "$base" && find "$here/overlay/etc/initramfs-tools" -type f -print0 | sort -z |
        xargs -0 cat; } | sha256sum | cut -c1-8)
    initrd=$cache/initrd-$kernel-$key.img
    [ ! -e "$initrd" ] || return 0
    say "root: initial RAM disk"
    SOURCE_DATE_EPOCH=1 inside update-initramfs -c -k "$kernel" >"$work/initramfs.log" 2>&1 ||
        { tail -20 "$work/initramfs.log" >&2 && fail "no initial RAM disk"; }
    mv "$root/boot/initrd.img-$kernel" "$initrd"
}

# A command in the root, of its own architecture, with only what it may see mounted. It knows of no
# network, and where it is emulated it runs on the oldest processor and in the smallest address space
# of all boards: what is compiled there runs on each.
inside() {
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount --pid --net --fork --kill-child bash -c '
        ip link set lo up
        mount --make-rprivate /
        mount -t proc proc "$0/proc"
        mount --bind /dev "$0/dev"
        mount -t tmpfs tmpfs "$0/run"
        exec chroot "$0" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root \
            QEMU_CPU=cortex-a53 QEMU_RESERVED_VA=0x8000000000 \
            DEBIAN_FRONTEND=noninteractive SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" "$@"' \
        "$root" "$@"
}

settings() {
    install -D -m 644 "$root/usr/share/edge/journald.conf" "$root/etc/systemd/journald.conf.d/edge.conf"
    # It finds no VSOCK on most machines and says so at each start.
    mkdir -p "$root/etc/systemd/system-generators"
    ln -s /dev/null "$root/etc/systemd/system-generators/systemd-ssh-generator"
    if [ -n "$config" ]; then
        install -m 640 -g "$edge_id" "$config" "$root/etc/edge/edge.toml"
    else
        # The broker is there, so it is used.
        sed -i 's|^#\[mqtt\]|[mqtt]|; s|^#url = "mqtt://localhost:1883"|url = "mqtt://localhost:1883"|' \
            "$root/etc/edge/edge.toml"
        grep -q '^url = "mqtt' "$root/etc/edge/edge.toml" || fail "edge.toml of the package has no [mqtt]"
    fi
}

enable_units() {
    local unit
    for unit in systemd-networkd.service systemd-resolved.service systemd-timesyncd.service \
        mosquitto.service edge.service edge.socket edge-{setup,grow,adopt,trial}.service; do
        inside systemctl --quiet enable "$unit"
    done
    # A board must come up without a network.
    inside systemctl --quiet mask systemd-networkd-wait-online.service \
        apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
        systemd-binfmt.service
}

describe() {
    printf '{"version": %s, "board": "%s", "suite": "%s"}\n' "$version" "$board" "$suite"
}

clean_root() {
    rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/machine-id" "$root/var/lib/dbus/machine-id" \
        "$root/etc/resolv.conf" "$root/etc/hostname" "$root"/var/log/*.log "$root"/boot/*-"$kernel" \
        "$root"/var/cache/ldconfig/aux-cache "$root"/vmlinuz* "$root"/initrd.img*
    rm -rf "$root"/var/log/apt "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* \
        "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
    ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
    # Empty, not missing: systemd makes one on the device, and asks nobody and enables nothing, as it
    # does at what it takes for a first boot.
    : >"$root/etc/machine-id"
    echo edge >"$root/etc/hostname"
    # Indexes of hardware, libraries and messages are made here and not on the device's first boot.
    inside sh -c 'ldconfig && journalctl --update-catalog && systemd-hwdb update --usr || true' \
        >/dev/null 2>&1
    rm -f "$root/var/cache/ldconfig/aux-cache"
    touch --date="@$SOURCE_DATE_EPOCH" "$root/usr" "$root/etc/.updated" "$root/var/.updated"
    echo "deb $mirror $suite main non-free-firmware" >"$root/etc/apt/sources.list"
}
