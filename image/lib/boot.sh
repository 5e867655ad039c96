# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that build.sh and the files beside this one set
# Sourced by build.sh. The files of the FAT partition. A slot has a folder of its own: kernel, RAM
# disk, device trees, command lines. Which slot starts is one file of one sector (ab/boards.py).

make_boot() {
    say "boot partition"
    boot=$work/boot
    mkdir -p "$boot/setup" "$work/boot-packages"
    local package
    for package in "$packages"/*.deb; do
        grep -qx "$(basename "${package%%_*}")" "$here/packages/boot-$architecture" &&
            dpkg-deb -x "$package" "$work/boot-packages"
    done
    cp "$here/boot/README.txt" "$boot/"
    cp "$here/boot/setup.txt" "$boot/setup/README.txt"
    make_slot
    case $board in
    pi) pi_files ;;
    *) efi_files ;;
    esac
    clamp_times "$boot"
}

# The slot's folder, also what an update brings: `@` stands for its letter in the command lines.
make_slot() {
    slot=$work/slot
    mkdir "$slot"
    cp "$work/kernel/vmlinuz" "$work/kernel/initrd.img" "$slot/"
    case $board in
    pi)
        # Pi 3, Zero 2 W; 4, 400, CM4; 5 (whose other devices Debian's kernel lacks)
        cp "$root/usr/lib/linux-image-$kernel"/broadcom/bcm{2837,2711,2712}-rpi-*.dtb "$slot/"
        ;;
    esac
    clamp_times "$slot"
    cp -a "$slot" "$boot/slot-a"
    python3 -I "$here/lib/firstslot.py" "$here" "$boot" "$board"
}

# https://www.raspberrypi.com/documentation/computers/configuration.html#boot-folder-contents
pi_files() {
    local firmware=$work/boot-packages/usr/lib/raspi-firmware
    cp "$firmware/bootcode.bin" "$firmware"/start{,4}.elf "$firmware"/fixup{,4}.dat \
        "$firmware"/start{_cd,4cd}.elf "$firmware"/fixup{_cd,4cd}.dat "$boot/"
    : >"$boot/usercfg.txt"
}

efi_files() {
    local name
    case $architecture in
    amd64) name=x64 ;;
    arm64) name=aa64 ;;
    esac
    mkdir -p "$boot/EFI/BOOT"
    cp "$work/boot-packages/usr/lib/systemd/boot/efi/systemd-boot$name.efi" \
        "$boot/EFI/BOOT/BOOT${name^^}.EFI"
    printf 'timeout 0\neditor no\nauto-entries no\n' >"$boot/loader/loader.conf"
}
