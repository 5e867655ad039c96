#!/usr/bin/env bash
# inside.sh VERSION REVISION SUITE NATIVE ARCH...: what build-debs.sh runs in a root of Debian.
set -euo pipefail

version=$1 revision=$2 suite=$3 native=$4
shift 4

declare -A RELEASES=([bookworm]=12 [trixie]=13)
PREFIX=/usr/lib/edge
MAINTAINER="edge maintainers <edge@localhost>"
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# A release's package is newer than that of the release before, so its upgrade brings the other one.
package_version=$version-$revision+deb${RELEASES[$suite]}
# Of marshalled sets; the same bytes for the same source.
export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1

say() {
    echo "build-debs: $suite: $1"
}

tools() {
    python3 -m venv /build/tools
    /build/tools/bin/pip --quiet install --no-index --find-links /build/wheels --require-hashes \
        --requirement /build/source/image/debs/build-requirements.txt
}

architecture() { # architecture ARCH: what its compiler and wheels are called
    triplet=$(dpkg-architecture -a "$1" -q DEB_HOST_MULTIARCH 2>/dev/null)
    machine=${triplet%%-*}
    tree=/build/$1/tree
    site=$tree$PREFIX/lib/python$python/site-packages
}

# Debian's interpreter is told by two variables that it builds for another architecture.
wheel() { # wheel ARCH
    say "$1: the extension"
    rm -rf /build/source/build
    (cd /build/source && env CFLAGS="-ffile-prefix-map=/build/source=." LDFLAGS="-Wl,-z,relro,-z,now" \
        _PYTHON_HOST_PLATFORM="linux-$machine" \
        _PYTHON_SYSCONFIGDATA_NAME="_sysconfigdata__$triplet" \
        /build/tools/bin/python -c \
        "from setuptools.build_meta import build_wheel; build_wheel('/build/$1')") >/build/log 2>&1 ||
        { tail -40 /build/log >&2 && exit 1; }
}

packages() { # packages ARCH
    local platforms=(--platform "linux_$machine") name
    for name in manylinux2014 manylinux_2_28 manylinux_2_31 manylinux_2_34; do
        platforms+=(--platform "${name}_$machine")
    done
    local install=(/build/tools/bin/pip --quiet --disable-pip-version-check install --no-index
        --no-deps --no-compile --upgrade --only-binary :all: --implementation cp
        --python-version "$python" "${platforms[@]}" --target "$site")
    "${install[@]}" --find-links /build/wheels --require-hashes \
        --requirement /build/source/image/debs/requirements.txt
    "${install[@]}" "/build/$1"/edge-*.whl
}

# Sources of extensions, and what pip would uninstall by.
prune() {
    rm -rf "${site:?}/bin" "$site"/*/_testcapi.*
    find "$site" \( -name '*.py[xid]' -o -name '*.px[id]' -o -name '*.c' -o -name '*.h' \
        -o -name '*.pth' -o -name RECORD -o -name INSTALLER -o -name REQUESTED \
        -o -name direct_url.json \) -delete
    find "$site" -depth -type d \( -name __pycache__ -o -name tests \) -exec rm -rf {} +
    find "$site" -name '*.so*' -type f -exec "$triplet-strip" --strip-unneeded {} +
    find "$site" -type f -exec chmod 644 {} +
}

environment() {
    local bin=$tree$PREFIX/bin
    mkdir -p "$bin" "$tree/usr/bin"
    ln -s "/usr/bin/python$python" "$bin/python"
    ln -s python "$bin/python3"
    # -I: neither the folder nor the variables of who calls it decide what is imported.
    printf '#!%s/python -I\nimport sys\n\nfrom edge.cli import main\n\nsys.exit(main())\n' \
        "$PREFIX/bin" >"$bin/edge"
    chmod 755 "$bin/edge"
    ln -s ../lib/edge/bin/edge "$tree/usr/bin/edge"
    printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' \
        "$(python3 -c 'import platform; print(platform.python_version())')" >"$tree$PREFIX/pyvenv.cfg"
}

# Unchecked: an image may change the times of all files, and nobody edits these.
bytecode() {
    python3 -m compileall -q -j 1 --invalidation-mode unchecked-hash -s "$tree" "$tree$PREFIX/lib"
}

# By the native packages, as the other ones do not run here. They say the same.
documents() {
    say "manual and completions"
    local run=(env PYTHONPATH="$site" python3)
    "${run[@]}" /build/source/image/debs/manual.py "$version" /build/source/docs/configuration.md \
        /build/documents/man
    "${run[@]}" /build/source/image/debs/completions.py /build/documents/completions
    "${run[@]}" - >/build/documents/bundled <<'END'
from importlib.metadata import distributions

for found in sorted(distributions(), key=lambda found: found.name.lower()):
    about = found.metadata
    terms = about.get("License-Expression") or about.get("License") or ""
    if "/edge/" in str(found.locate_file("")) and found.name != "edge":
        print(f" {found.name} {found.version}: {terms.splitlines()[0] if terms else 'see there'}")
END
}

share() {
    local share=$tree/usr/share
    local doc=$share/doc/edge
    install -Dm644 -t "$share/man/man1" /build/documents/man/edge.1
    install -Dm644 -t "$share/man/man5" /build/documents/man/edge.toml.5
    gzip -9n "$share"/man/man*/*
    install -Dm644 -t "$share/bash-completion/completions" /build/documents/completions/bash/edge
    install -Dm644 -t "$share/zsh/vendor-completions" /build/documents/completions/zsh/_edge
    install -Dm644 -t "$share/fish/vendor_completions.d" /build/documents/completions/fish/edge.fish
    install -Dm644 -t "$doc" /build/source/docs/*.md
    install -Dm644 -t "$doc/examples" /build/source/examples/edge.toml
    gzip -9nc /build/source/CHANGELOG.md >"$doc/changelog.gz"
    changelog | gzip -9n >"$doc/changelog.Debian.gz"
    copyright >"$doc/copyright"
    install -Dm644 /build/source/image/debs/debian/lintian-overrides "$share/lintian/overrides/edge"
    install -Dm644 -t "$tree/etc/edge" /build/source/image/debs/edge.toml
}

changelog() {
    printf 'edge (%s) %s; urgency=medium\n\n  * Release %s: see changelog.gz.\n\n -- %s  %s\n' \
        "$package_version" "$suite" "$version" "$MAINTAINER" "$(date -uRd "@$SOURCE_DATE_EPOCH")"
}

copyright() {
    cat <<END
edge is licensed under the Apache License 2.0; on Debian systems its text is in
/usr/share/common-licenses/Apache-2.0.

The Python packages below are part of this one. Their terms are in
$PREFIX/lib/python$python/site-packages/*.dist-info.

$(cat /build/documents/bundled)
END
}

units() {
    local from=/build/source/systemd lib=$tree/usr/lib
    install -Dm644 -t "$lib/systemd/system" "$from"/*.service "$from"/*.socket
    install -Dm644 "$from/edge.sysusers" "$lib/sysusers.d/edge.conf"
    install -Dm644 "$from/edge.tmpfiles" "$lib/tmpfiles.d/edge.conf"
    install -Dm644 -t "$lib/systemd/catalog" "$from/edge.catalog"
    # What an administrator opts into, by a link or a copy.
    install -Dm644 -t "$tree/usr/share/edge" "$from/journald.conf"
    install -Dm644 -t "$tree/usr/share/edge/drop-ins" "$from"/drop-ins/*
    if [ "$suite" != bookworm ]; then # systemd 252
        mkdir -p "$lib/systemd/system/edge.service.d"
        mv "$tree/usr/share/edge/drop-ins/systemd-254.conf" "$lib/systemd/system/edge.service.d"
    else
        rm "$tree/usr/share/edge/drop-ins/systemd-254.conf"
    fi
}

control() { # control ARCH
    local from=/build/source/image/debs/debian name needed
    needed=$(depends "$1")
    mkdir -p "$tree/DEBIAN"
    sed -e "s/@VERSION@/$package_version/" -e "s/@ARCH@/$1/" -e "s/@MAINTAINER@/$MAINTAINER/" \
        -e "s/@SIZE@/$(du -sk --apparent-size --exclude=DEBIAN "$tree" | cut -f1)/" \
        -e "s/@DEPENDS@/$needed/" $from/control >"$tree/DEBIAN/control"
    for name in postinst prerm postrm; do
        install -Dm755 -t "$tree/DEBIAN" "$from/$name"
    done
    echo /etc/edge/edge.toml >"$tree/DEBIAN/conffiles"
    (cd "$tree" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | LC_ALL=C sort -z |
        xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
}

# python3.11 and not python3: where that is another one after an upgrade of Debian, this one stays
# until the package for the new release is there.
depends() { # depends ARCH
    local found
    found=$(libraries "$1")
    echo "python$python, $found, ca-certificates, tzdata, init-system-helpers (>= 1.54~)," \
        "systemd | systemd-standalone-sysusers | systemd-sysusers"
}

libraries() { # libraries ARCH: as dpkg-shlibdeps finds them
    local folder=/build/$1/shlibdeps found=()
    mkdir -p "$folder/debian"
    printf 'Source: edge\n\nPackage: edge\nArchitecture: any\n' >"$folder/debian/control"
    mapfile -t found < <(find "$site" -name '*.so*' -type f)
    mapfile -t own < <(find "$site" -type d -name '*.libs' -printf '-l%p\n')
    (cd "$folder" && DEB_HOST_ARCH=$1 dpkg-shlibdeps -O --ignore-missing-info "${own[@]}" \
        "${found[@]}" 2>/build/log) | sed 's/^shlibs:Depends=//' | grep . ||
        { cat /build/log >&2 && exit 1; }
}

assemble() { # assemble ARCH
    share
    units
    bytecode
    control "$1"
    find "$tree" -type d -exec chmod 755 {} +
    mkdir -p /build/out
    dpkg-deb --root-owner-group --threads-max=1 -Zxz --build "$tree" \
        "/build/out/edge_${package_version}_$1.deb" >/dev/null
}

tools
for arch in "$native" $(printf '%s\n' "$@" | grep -vx "$native" || true); do
    architecture "$arch"
    mkdir -p "/build/$arch"
    wheel "$arch"
    packages "$arch"
    prune
    environment
    [ "$arch" != "$native" ] || documents
done
for arch; do
    architecture "$arch"
    say "$arch: the package"
    assemble "$arch"
done
