# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that build.sh and the files beside this one set
# Sourced by build.sh. Debian's packages, downloaded once: an image is made of this directory alone.

package_names() {
    sed '/^#/d; /^$/d' "$here/packages/common" "$here/packages/$architecture"
}

# What only the boot partition needs: unpacked, never installed.
boot_names() {
    sed '/^#/d; /^$/d' "$here/packages/boot-$architecture"
}

fetch_packages() {
    local wanted
    packages=$cache/packages-$architecture
    mapfile -t installed < <(package_names | sort -u)
    mapfile -t names < <(boot_names | cat - <(printf '%s\n' "${installed[@]}") | sort -u)
    wanted="$suite $mirror ${names[*]}"
    if [ -z "$refresh" ] && [ "$(cat "$packages/.wanted" 2>/dev/null)" = "$wanted" ]; then
        say "packages: those of $packages"
        return
    fi
    say "packages: asking $mirror for $suite/$architecture"
    rm -f "$packages/.wanted"
    mkdir -p "$packages/.apt/lists/partial" "$packages/partial"
    : >"$packages/.apt/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main non-free-firmware
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite-updates main non-free-firmware
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror%/debian}/debian-security $suite-security main non-free-firmware" \
        >"$packages/.apt/sources.list"
    apt_of_image update
    rm -f "$packages"/*.deb
    # shellcheck disable=SC2016 # a pattern of apt
    apt_of_image --download-only --yes install '?essential' apt "${names[@]}"
    rm -rf "$packages/.apt" "$packages/partial" "$packages/lock"
    (cd "$packages" && dpkg-scanpackages --multiversion . 2>/dev/null >Packages)
    printf '%s\n' "$wanted" >"$packages/.wanted"
    say "packages: $(find "$packages" -name '*.deb' | wc -l), $(du -sh "$packages" | cut -f1)"
}

# An apt of another release and architecture than this machine's.
apt_of_image() {
    (cd "$packages" && apt-get -qq \
        -oDir::Etc::SourceList="$packages/.apt/sources.list" -oDir::Etc::SourceParts=/dev/null \
        -oDir::Etc::PreferencesParts=/dev/null -oDir::State::Status="$packages/.apt/status" \
        -oDir::State::Lists="$packages/.apt/lists" -oDir::Cache="$packages/.apt" \
        -oDir::Cache::Archives="$packages" -oAPT::Architecture="$architecture" \
        -oAPT::Architectures="$architecture" -oAPT::Install-Recommends=false \
        -oAPT::Sandbox::User=root -oAcquire::Languages=none "$@" >&2)
}
