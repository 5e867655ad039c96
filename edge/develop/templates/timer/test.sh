#!/bin/sh
# What this application promises, without waiting. After `edge build`: ./test.sh
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

expect "ticks: 0" edge invoke . --state-dir "$state" --path /
expect "" edge invoke . --state-dir "$state" --trigger ticks
expect "ticks: 1" edge invoke . --state-dir "$state" --path /
echo ok
