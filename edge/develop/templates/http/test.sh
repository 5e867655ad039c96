#!/bin/sh
# What this application promises. After `edge build`: ./test.sh
set -eu
cd "$(dirname "$0")"

expect() { # WANTED COMMAND…
    wanted=$1
    shift
    got=$("$@") || { echo "failed: $*" >&2; exit 1; }
    [ "$got" = "$wanted" ] || { echo "$*: \"$got\" instead of \"$wanted\"" >&2; exit 1; }
}

expect "hello, /world" edge invoke . --path /world
expect "hello, stranger" edge invoke . --data "stranger"
echo ok
