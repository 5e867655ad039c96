# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that build.sh and the files beside this one set
# Sourced by build.sh. The module that asks a Raspberry Pi's firmware for a trial (tryboot/), compiled
# for the kernel of the image by Debian's cross compiler.

make_tryboot() {
    local key
    key=$(cat "$here"/tryboot/* "$here/lib/tryboot.sh" | sha256sum | cut -c1-8)
    module=$cache/edge_tryboot-$kernel-$key.ko
    if [ ! -e "$module" ]; then
        say "tryboot: a compiler, and the headers of $kernel"
        make_compiler
        say "tryboot: module"
        compile_tryboot >"$work/tryboot.log" 2>&1 ||
            { tail -20 "$work/tryboot.log" >&2 && fail "the module does not compile"; }
    fi
    install -D -m 644 "$module" "$root/usr/lib/modules/$kernel/updates/edge_tryboot.ko"
    depmod --basedir "$root" "$kernel"
}

# A root of this machine's architecture; headers are only unpacked, they ask for a native compiler.
make_compiler() {
    compiler=$work/compiler
    mmdebstrap --quiet --mode=root --variant=apt --include="gcc-14-aarch64-linux-gnu,make,linux-kbuild-${kernel%-arm64}" \
        --aptopt='APT::Install-Recommends "false"' --architectures=amd64,arm64 --skip=check/qemu \
        --customize-hook="chroot \"\$1\" sh -c 'cd /root && apt-get -qq download \
            linux-headers-$kernel:arm64 linux-headers-${kernel%-arm64}-common'" \
        "$suite" "$compiler" "$mirror" "deb $mirror $suite-updates main" \
        "deb ${mirror%/debian}/debian-security $suite-security main"
    local package
    for package in "$compiler"/root/*.deb; do
        dpkg-deb -x "$package" "$compiler"
    done
}

compile_tryboot() {
    cp -r "$here/tryboot" "$compiler/root/tryboot"
    chroot "$compiler" make -C "/lib/modules/$kernel/build" ARCH=arm64 \
        CROSS_COMPILE=aarch64-linux-gnu- CC=aarch64-linux-gnu-gcc-14 M=/root/tryboot modules
    chroot "$compiler" aarch64-linux-gnu-strip --strip-debug /root/tryboot/edge_tryboot.ko
    mv "$compiler/root/tryboot/edge_tryboot.ko" "$module"
}
