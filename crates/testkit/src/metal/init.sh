#!/bin/busybox sh
# Brings the machine up, runs the script, says by the second serial line how that ended, and turns the machine off.
export PATH=/bin:/sbin:/usr/bin HOME=/root TERM=linux LANG=C.UTF-8
busybox=/bin/busybox
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sysfs /sys
$busybox mount -t devtmpfs dev /dev
chmod 1777 /tmp /var/tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
# Processes may have control groups below this one, and each of them every controller.
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
for module in $(cat /etc/modules); do
    modprobe "$module" || echo "virtual bare metal: no module $module"
done
ip link set lo up
hostname metal

cd /lab
sh /etc/script
code=$?

# Whoever still holds the console lets go of it, so that all that was said is out before the machine goes.
exec </dev/null >/dev/null 2>&1
kill -9 -1
echo "$code" >/dev/ttyS1
poweroff -f
