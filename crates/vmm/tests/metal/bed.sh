#!/bin/bash
# Fills a folder with what a host needs to run machines (README.md): bed.sh DIR WEFT
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$1 weft=$2
kernel=$(ls /lib/modules | grep -E '^[0-9].*-amd64$' | grep -v cloud | sort -V | tail -1)
disk=$(mktemp -d)
trap 'rm -rf "$disk"' EXIT
mkdir -p "$dir" "$disk/bin" "$disk/modules"
cp /bin/busybox "$disk/bin/"
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk failover \
    net_failover virtio_net virtio_console virtio-rng button evdev pvpanic pvpanic-mmio; do
    file=$(find "/lib/modules/$kernel" -name "$module.ko*" | head -1)
    [ -n "$file" ] || continue
    cp "$file" "$disk/modules/"
    [[ $file != *.xz ]] || xz -d "$disk/modules/$(basename "$file")"
done
install -m 755 "$here/init" "$disk/init"
(cd "$disk" && find . | cpio -o -H newc --quiet | gzip -1) >"$dir/initrd"
cp "/boot/vmlinuz-$kernel" "$dir/vmlinuz"
cp "$weft" "$dir/weft"
install -m 755 "$here/run" "$dir/run"
