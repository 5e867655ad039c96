#!/bin/sh
# What this application promises, without a broker. After `edge build`: ./test.sh
set -eu
cd "$(dirname "$0")"
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT

expect() { # WANTED COMMAND…
    wanted=$1
    shift
    got=$("$@") || { echo "failed: $*" >&2; exit 1; }
    [ "$got" = "$wanted" ] || { echo "$*: \"$got\" instead of \"$wanted\"" >&2; exit 1; }
}

reading() { # ROOM TEMPERATURE: prints the reply, which a broker would get
    edge invoke . --state-dir "$state" --trigger readings \
        --subject "sensors/$1/temperature" --data "$2"
}

expect "kitchen: 31.5 is above 25" reading kitchen 31.5
expect "" reading attic 19
expect "attic 19
kitchen 31.5" edge invoke . --state-dir "$state" --path /
if reading kitchen hot 2>/dev/null; then
    echo "took \"hot\" for a temperature" >&2
    exit 1
fi
echo ok
