#!/bin/bash
# users.sh ROOT NAME ID HOME: a system user with this number, before a package makes it with another.
set -euo pipefail

[ $# = 4 ] || { echo "usage: users.sh ROOT NAME ID HOME" >&2 && exit 64; }
grep -q "^$2:" "$1/etc/passwd" && exit 0
echo "$2:x:$3:$3::$4:/usr/sbin/nologin" >>"$1/etc/passwd"
echo "$2:x:$3:" >>"$1/etc/group"
[ ! -e "$1/etc/shadow" ] || echo "$2:!*:1::::::" >>"$1/etc/shadow"
[ ! -e "$1/etc/gshadow" ] || echo "$2:!*::" >>"$1/etc/gshadow"
