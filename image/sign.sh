#!/bin/bash
# Signs an update; see usage below.
set -euo pipefail

usage() {
    cat <<EOF
usage: image/sign.sh --generate-key FILE
       image/sign.sh --key FILE UPDATE

The first makes a key: FILE is the private one, beside it in FILE.pub what images are built with
(image/build.sh --update-key). The second signs an update that image/build.sh made, in place: images
take it then by \`edge-image update\`. Who has the private key can replace the system of every board
whose image has the public one: keep it off them, and off build machines that others use.
EOF
}

fail() {
    printf 'sign.sh: %s\n' "$*" >&2
    exit 1
}

main() {
    case ${1:-} in
    --help) usage ;;
    --generate-key) [ $# = 2 ] || { usage >&2 && exit 64; } && generate "$2" ;;
    --key) [ $# = 3 ] || { usage >&2 && exit 64; } && sign "$2" "$3" ;;
    *) usage >&2 && exit 64 ;;
    esac
}

generate() {
    [ ! -e "$1" ] || fail "$1 is there already: a key in use must not be lost"
    (umask 077 && openssl ecparam -name prime256v1 -genkey -noout -out "$1")
    openssl ec -in "$1" -pubout -out "$1.pub" 2>/dev/null
    echo "private: $1, public: $1.pub"
}

sign() {
    local key=$1 update=$2
    folder=$(mktemp -d "$(dirname "$(realpath "$update")")/.sign.XXXXXX")
    trap 'rm -rf "$folder"' EXIT
    tar -C "$folder" -xf "$update" manifest.json slot.tar root.sqfs || fail "$update is no update"
    openssl dgst -sha256 -sign "$key" -out "$folder/signature" "$folder/manifest.json"
    # The signature first: on the device nothing is written before it is verified.
    tar -C "$folder" --mtime=@0 --owner=0 --group=0 --numeric-owner \
        -cf "$update.new" signature manifest.json slot.tar root.sqfs
    mv "$update.new" "$update"
    echo "signed: $update"
}

main "$@"
