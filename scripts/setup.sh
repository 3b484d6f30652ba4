#!/bin/sh
# Installs what Weft runs on (QEMU) and what its tests use, from Debian's packages. Does nothing when all is there.
set -eu

missing=""
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"; }
have() { [ -e "$1" ] || missing="$missing $2"; }
need qemu-system-x86_64 qemu-system-x86
need qemu-img qemu-utils
need qemu-system-aarch64 qemu-system-arm
have /usr/share/OVMF ovmf
have /usr/lib/ipxe/ipxe.iso ipxe
need busybox busybox-static
need dpkg-deb dpkg
need ip iproute2
need ping iputils-ping
need setpriv util-linux
need cc gcc
need pgrep procps
need python3 python3
need curl curl
need mmdebstrap mmdebstrap
need mke2fs e2fsprogs
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: please install these yourself:$missing" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "setup: needs root once: sudo apt-get install --no-install-recommends$missing" >&2
        exit 1
    fi
    as_root="sudo"
fi
echo "setup: installing$missing" >&2
$as_root apt-get update -qq >&2
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
