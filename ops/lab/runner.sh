#!/bin/sh
# One host from power-on to power-off. Started in the host's control group, in a mount namespace of its own: whatever is
# mounted here is gone when the last process of the host is, however it died.
#   GROUP      the host's control group, below the cgroup v2 mount (/longhaul/lab/host.web1)
#   DIRECTORY  the host's files: disk.img, or disk/ for a volatile host
#   MOUNTS     directories of the disk that the host has as mount points (data/srv-node-d1)
#   IMAGE      the lower layer;  VOLATILE  non-empty: plain directories, and fsync does nothing
#   "$@"       systemd-nspawn with its options
set -eu

# The machine may have the old hierarchies at /sys/fs/cgroup; hosts get the unified one, here and nowhere else.
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi

# nspawn leaves locks and folders here, which are of no use after it.
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=0755 nspawn /run/systemd/nspawn

# nspawn makes groups below the one it runs in, and a group with groups below it may hold no process.
# shellcheck disable=SC2153 # GROUP is given
group=/sys/fs/cgroup$GROUP
mkdir -p "$group/runner" "$group/machine"
echo $$ >"$group/runner/cgroup.procs"

disk=$DIRECTORY/disk
options=
if [ -n "$VOLATILE" ]; then
    options=,volatile
    rm -rf "$disk/work" # overlayfs refuses the work directory of a volatile mount that was not unmounted
else
    mount -o loop,discard "$DIRECTORY/disk.img" "$disk"
fi
if [ ! -d "$disk/upper" ]; then # the first boot: what makes the host this one goes over the image
    rm -rf "$disk/new"
    cp -a "$DIRECTORY/first" "$disk/new"
    mv "$disk/new" "$disk/upper"
fi
mkdir -p "$disk/work"
for mount in $MOUNTS; do
    mkdir -p "$disk/$mount"
done
mount -t overlay -o "lowerdir=$IMAGE,upperdir=$disk/upper,workdir=$disk/work,redirect_dir=on$options" overlay "$DIRECTORY/root"

export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
while :; do
    code=0
    # shellcheck disable=SC2016 # expanded by the inner shell
    sh -c 'echo $$ >"$0/machine/cgroup.procs" && exec "$@"' "$group" "$@" || code=$?
    [ "$code" = 133 ] || exit "$code" # 133: the host rebooted itself
    sleep 0.2                         # its groups go a moment after it
done
