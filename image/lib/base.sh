# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that build.sh and the files beside this one set
# Sourced by build.sh. Debian's part of the root; kept as long as this file and the packages stay.

# Owners of what outlives an update: their numbers must be the same in every image.
readonly edge_id=970 mosquitto_id=971

# Debian alone: the slow part for a foreign architecture, and the same for many images.
make_base() {
    local key
    key=$(cat "$packages/.wanted" "$packages/Packages" "$here/lib/base.sh" | sha256sum | cut -c1-16)
    base=$cache/base-$architecture-$key.tar
    if [ -e "$base" ]; then
        say "root: Debian's part is there"
        return
    fi
    say "root: $(wc -w <<<"${names[*]}") packages and what they depend on"
    rm -f "$cache/base-$architecture-"*.tar
    # INITRD: the RAM disk is made later, with our scripts in it.
    INITRD=No DEBIAN_FRONTEND=noninteractive nice mmdebstrap --quiet --mode=root --variant=apt \
        --architectures="$architecture" --skip=check/qemu \
        --hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount \
        --include="$(IFS=, && echo "${installed[*]}")" \
        --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --essential-hook="$here/lib/users.sh \"\$1\" edge $edge_id /var/lib/edge" \
        --essential-hook="$here/lib/users.sh \"\$1\" mosquitto $mosquitto_id /var/lib/mosquitto" \
        "$suite" "$base.new.tar" "deb [trusted=yes] file://$packages ./"
    mv "$base.new.tar" "$base"
}
