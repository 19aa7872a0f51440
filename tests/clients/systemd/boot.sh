#!/usr/bin/env bash
# The first process of a machine within this one: boot.sh FOLDER, in namespaces of its own (mount, pid, ipc, uts, net). What
# is written in it is in FOLDER's memory and gone with it; this machine's files are seen and not changed, nor are its clock,
# its modules and its kernel's settings. FOLDER/seed is /opt in it.
set -euo pipefail
folder=$1
exec > "$folder/boot.log" 2>&1
mount --make-rprivate /
mkdir "$folder/memory"
mount -t tmpfs tmpfs "$folder/memory"
cd "$folder/memory"
mkdir upper work root cgroup
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root

# A control group of its own, below the one this runs in, as its processes are the machine's to move.
mount -t cgroup2 cgroup2 cgroup
own=cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/$(basename "$folder")
mkdir -p "$own"
echo $$ > "$own/cgroup.procs"
umount -l cgroup

for place in run tmp opt dev home etc/systemd/system var/log var/lib/private; do
  mkdir -p "root/$place"
  mount -t tmpfs -o mode=755 tmpfs "root/$place"
done
chmod 1777 root/tmp
chmod 700 root/var/lib/private
cp -r "$folder/seed/." root/opt
echo 'of a user' > root/home/secret
mount -t proc proc root/proc
mount -t sysfs -o ro sysfs root/sys
for place in sys sysrq-trigger; do
  [ -e "root/proc/$place" ] || continue
  mount --bind "root/proc/$place" "root/proc/$place"
  mount -o remount,bind,ro "root/proc/$place"
done
for device in null zero full random urandom tty; do
  touch "root/dev/$device"
  mount --bind "/dev/$device" "root/dev/$device"
done
mkdir root/dev/pts root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts root/dev/pts
ln -s pts/ptmx root/dev/ptmx
ln -s /proc/self/fd root/dev/fd
mount -t tmpfs -o mode=1777 tmpfs root/dev/shm
# Of what this machine starts by itself nothing is started.
for unit in timers.target systemd-sysctl.service systemd-modules-load.service systemd-remount-fs.service systemd-tmpfiles-clean.service; do
  ln -s /dev/null "root/etc/systemd/system/$unit"
done
ip link set lo up

mkdir root/old
cd root
pivot_root . old
export container=test
# shellcheck disable=SC2016
exec unshare --cgroup sh -c '
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  umount -l /old
  mount --make-rshared /
  exec setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog /lib/systemd/systemd --unit=basic.target < /dev/null'
