#!/bin/sh
# Turns a fresh Debian in $1 into what a cloud provider hands over: sshd, the account `ops` that may become root, and no
# identity of its own. Runs once per image; part of the image's checksum.
set -eu
root=$1

chroot "$root" useradd --create-home --shell /bin/bash --comment 'Operators' ops
printf 'ops ALL=(ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/ops"
chmod 0440 "$root/etc/sudoers.d/ops"
install -d -m 0700 -o "$(chroot "$root" id -u ops)" -g "$(chroot "$root" id -g ops)" "$root/home/ops/.ssh"

# OpenSSH 10 shuts out an address whose connections fail; waiting for a host to boot is a series of those.
printf 'PasswordAuthentication no\nPermitRootLogin no\nPerSourcePenalties no\n' >"$root/etc/ssh/sshd_config.d/cloud.conf"

# Every host gets keys and an id of its own before its first boot, so that its clients can be strict from the first one.
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/etc/hostname"

# There is no console to log in at, no disk to check, and the network is there before the host boots.
chroot "$root" systemctl mask --quiet \
    getty.target console-getty.service systemd-firstboot.service systemd-networkd-wait-online.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
chroot "$root" systemctl set-default --quiet multi-user.target

# Sources are written for each host, as they hold the address of its lab's package cache.
rm -rf "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/*
# A cloud image has no package lists; Ansible must not take the folder's fresh date for a recent update.
touch -d @0 "$root/var/lib/apt/lists"

# dpkg's fsync after every file doubles the time of an installation. Power cuts are rehearsed on services' data.
printf 'force-unsafe-io\n' >"$root/etc/dpkg/dpkg.cfg.d/lab"

# Half of what a host's disk holds would be package lists and packages that are installed already, in every snapshot too.
printf 'Acquire::Languages "none";\nAPT::Keep-Downloaded-Packages "false";\n' >"$root/etc/apt/apt.conf.d/99lab"
