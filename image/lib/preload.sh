# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that build.sh and the files beside this one set
# Sourced by build.sh. What the image brings for its node: bundles, and code compiled of them. A node
# runs in the root until all of it is live; of what it wrote, what is the same on each board is kept.

preload() {
    local number=0 bundle
    brought=$work/brought
    mkdir "$brought"
    [ ${#bundles[@]} != 0 ] || return 0
    say "bundles: a node in the root compiles ${#bundles[@]} of them"
    mkdir "$root/tmp/bundles"
    for bundle in "${bundles[@]}"; do
        number=$((number + 1))
        cp --no-preserve=mode,ownership "$bundle" "$root/tmp/bundles/$number.tar"
    done
    cp "$here/lib/preload.py" "$root/tmp/"
    inside python3 -I /tmp/preload.py >"$work/preload.log" 2>&1 ||
        { tail -20 "$work/preload.log" >&2 && fail "the bundles do not come to life"; }
    rm -r "$root/tmp/bundles" "$root/tmp/preload.py"
    local made=$root/var/lib/edge code=$root/usr/lib/edge-image/code
    mkdir "$code"
    mv "$made"/code/*/* "$code/"
    chown -R 0:0 "$code"
    chmod 644 "$code"/*
    mv "$made/blobs" "$made/apps.json" "$brought/"
    find "$made" -mindepth 1 -delete
    python3 -I "$here/lib/constant.py" "$SOURCE_DATE_EPOCH" "$brought/apps.json" "$code"/*.json
    say "bundles: $(du -sh "$brought/blobs" | cut -f1), code $(du -sh "$code" | cut -f1)"
}
