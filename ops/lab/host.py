"""One host of a lab: a systemd-nspawn container with its own disk, network namespace and control group.

Its disk is a file with an XFS of its own, mounted only in the host's mount namespace (runner.sh). So a full disk fills
no other disk, fsync is real, and a copy of the file is what a power cut would leave. `volatile` hosts have plain
directories instead, without these properties: they are for tests of roles.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.errors import Exit, Failure
from ops.inventories import debian_suite
from ops.lab import cgroups, network
from ops.lab.cgroups import Cgroup
from ops.lab.place import NETNS, Place, port_name
from ops.lab.shell import run
from ops.lab.sources import Mirror

DISK_SIZE = "20G"  # an upper bound: the file is sparse and takes what is written
BOOT_SECONDS = 60.0
STOP_SECONDS = 90.0
SSH_PORT = 22
_RUNNER = Path(__file__).with_name("runner.sh")
# The signal that asks systemd as PID 1 for an orderly power-off (systemd(1), SIGRTMIN+4).
_POWER_OFF = signal.SIGRTMIN + 4
# XFS_IOC_GOINGDOWN, _IOR('X', 125, __u32); with XFS_FSOP_GOING_FLAGS_NOLOGFLUSH, data not yet on the disk is lost.
_GOING_DOWN = 0x8004587D
_WITHOUT_FLUSH = struct.pack("I", 2)
_FILL = "fill"


@dataclass(frozen=True)
class LabHost:
    """A host by name and address; `disk_size` as truncate(1) takes it, `mounts` are paths that are mount points.

    A host of a `sealed` lab can be reached from within the lab only.
    """

    place: Place
    name: str
    address: str
    disk_size: str = DISK_SIZE
    mounts: tuple[str, ...] = ()
    sealed: bool = False

    @property
    def directory(self) -> Path:
        return self.place.host(self.name)

    @property
    def group(self) -> Cgroup:
        return Cgroup(self.place.name, self.place.host_group(self.name))

    @property
    def netns(self) -> str:
        return self.place.host_netns(self.name)

    @property
    def disk_image(self) -> Path:
        return self.directory / "disk.img"

    @property
    def console_log(self) -> Path:
        return self.directory / "console.log"

    @property
    def image(self) -> Path:
        """The image that the host's own files are laid over; it stays the same for the host's whole life."""
        return (self.directory / "image").readlink()

    @property
    def public_key(self) -> str:
        """The host's SSH key as it stands in a known_hosts file: type and key."""
        words = (self.directory / "first/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        return " ".join(words[:2])

    @property
    def volatile(self) -> bool:
        """Whether the host was made without a disk of its own."""
        return self.exists() and not self.disk_image.exists()

    # State: only what the kernel and the directory say.

    def exists(self) -> bool:
        """Whether the host has been made; it may be off."""
        return (self.directory / "image").is_symlink()

    def state(self, ports_down: set[str]) -> str:
        """missing, stopped, frozen, unplugged or running; `ports_down` as network.ports_down gives it."""
        if not self.exists():
            return "missing"
        if not self.group.populated():
            return "stopped"
        if self.group.frozen():
            return "frozen"
        return "unplugged" if port_name(self.name) in ports_down else "running"

    def init(self) -> int | None:
        """The machine's id of the host's PID 1, or None while it has none."""
        for process in self.group.processes():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process}/status").read_text().splitlines()
                ids = next(line.split()[1:] for line in lines if line.startswith("NSpid:"))
                if len(ids) > 1 and ids[-1] == "1":
                    return process
        return None

    def uptime(self) -> float | None:
        """Seconds since the host's PID 1 started, or None if it is off."""
        process = self.init()
        if process is None:
            return None
        try:
            started = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            return None
        now = float(Path("/proc/uptime").read_text().split()[0])
        return now - int(started) / os.sysconf("SC_CLK_TCK")

    def require_running(self) -> int:
        """The host's PID 1. Raises Failure if it is off, or frozen: a process that joins a frozen group freezes too."""
        if self.group.frozen():
            raise Failure(f"{self.name} is frozen.", f"Thaw it first: ./inv lab.thaw {self.name}", Exit.TEMPORARY)
        process = self.init()
        if process is None:
            raise Failure(f"{self.name} is off.", f"Start it: ./inv lab.up {self.name}", Exit.TEMPORARY)
        return process

    def _disk(self) -> Path | None:
        """The host's mounted disk, reached through a process of the host that sees it; None if it is off."""
        for process in self.group.processes():
            disk = Path(f"/proc/{process}/root{self.directory}/disk")
            if (disk / "upper").is_dir():
                return disk
        return None

    def _disk_in_use(self) -> bool:
        """Whether a loop device still uses the disk: the kernel unmounts it shortly after the last process ends."""
        for attached in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if attached.read_text().strip() == str(self.disk_image):
                    return True
        return False

    # Life

    def create(self, image: Path, authorized_key: str, mirror: Mirror, *, volatile: bool) -> None:
        """Makes the host's disk and its identity. An existing host stays as it is; a half-made one is made again."""
        if self.exists():
            return
        scratch = self.directory.with_name(f".{self.name}.new")
        for leftover in (scratch, self.directory):
            run(["rm", "-rf", "--one-file-system", leftover])
        for name in ("disk", "root"):
            (scratch / name).mkdir(parents=True)
        if not volatile:
            disk = scratch / "disk.img"
            run(["truncate", f"--size={self.disk_size}", disk])
            run(["mkfs.xfs", "-q", disk])
            run(["fallocate", "--dig-holes", disk])  # mkfs writes 64 MB of zeros for the journal
        self._write_identity(scratch / "first", image, authorized_key, mirror)
        (scratch / "image").symlink_to(image)
        scratch.rename(self.directory)

    def _write_identity(self, first: Path, image: Path, authorized_key: str, mirror: Mirror) -> None:
        """Writes the host's own files (names, keys, package sources); runner.sh lays them over the image."""
        etc = _layer(first, image, "etc")
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        (etc / "resolv.conf").write_text("")  # no name server can be reached
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (etc / "machine-id").chmod(0o444)
        ssh = _layer(first, image, "etc/ssh")
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", ssh / "ssh_host_ed25519_key"])
        apt = _layer(first, image, "etc/apt/sources.list.d")
        (apt / "debian.sources").write_text(mirror.deb822(debian_suite()))
        keys = _layer(first, image, "home/ops/.ssh") / "authorized_keys"
        keys.write_text(f"{authorized_key}\n")
        keys.chmod(0o600)
        owner = (image / "home/ops/.ssh").stat()
        os.chown(keys, owner.st_uid, owner.st_gid)

    def start(self, wiring: network.Wiring) -> None:
        """Switches the host on, with its cable plugged in. Does not wait for it to boot; see wait_ready."""
        if self.group.populated():
            return
        self.group.remove()
        self._wait_for_disk()
        network.attach(self.place, self.netns, self.name, self.address, wiring)
        mount = cgroups.mount_point()
        assert mount is not None  # machine.require_capable has checked it
        with self.console_log.open("ab") as output:
            self.group.start(
                ["unshare", "--mount", "--propagation", "slave", str(_RUNNER), *self._nspawn()],
                output=output,
                environment={
                    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "GROUP": f"/{self.group.path.relative_to(mount)}",
                    "DIRECTORY": str(self.directory),
                    "IMAGE": str(self.image),
                    "VOLATILE": "yes" if self.volatile else "",
                    "MOUNTS": " ".join(self._mount_sources()),
                },
            )

    def _mount_sources(self) -> list[str]:
        return [f"data/{target.strip('/').replace('/', '-')}" for target in self.mounts]

    def _nspawn(self) -> list[str]:
        command = [
            "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--settings=no",
            f"--directory={self.directory}/root",
            f"--machine={self.place.name}-{self.name}",
            f"--hostname={self.name}",
            f"--network-namespace-path={NETNS / self.netns}",
            "--capability=CAP_NET_ADMIN,CAP_NET_RAW",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no",
        ]  # fmt: skip
        if Path("/dev/fuse").exists():
            command.append("--bind=/dev/fuse")
        for source, target in zip(self._mount_sources(), self.mounts, strict=True):
            command.append(f"--bind={self.directory}/disk/{source}:{target}")
        return command

    def wait_ready(self, seconds: float = BOOT_SECONDS) -> None:
        """Waits until sshd greets.

        Raises Failure with the end of the console's log if the host switches itself off or takes longer.
        """
        with network.within(self.place) if self.sealed else contextlib.nullcontext():
            if self._greets(seconds):
                return
        log = self.console_log.read_text(errors="replace")[-2000:] if self.console_log.exists() else ""
        raise Failure(
            f"{self.name} is not ready for SSH. The end of its console:\n{log.strip() or '(empty)'}",
            f"All of it: {self.console_log}. Try again: ./inv lab.power-cut {self.name}; ./inv lab.up {self.name}",
            Exit.TEMPORARY,
        )

    def _greets(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self.address, SSH_PORT), timeout=1) as line:
                line.settimeout(2)
                if line.recv(4) == b"SSH-":
                    return True
            if not self.group.populated() and time.monotonic() > deadline - seconds + 2:
                break
            time.sleep(0.1)
        return False

    def ask_to_stop(self) -> None:
        """Asks for an orderly power-off, as a short press on the button does."""
        if self.group.frozen():
            self.group.freeze(False)
        process = self.init()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, _POWER_OFF)

    def finish_stop(self, seconds: float = STOP_SECONDS) -> None:
        """Waits until the host is off, kills it if that takes too long, and removes its cable."""
        self.group.wait_empty(seconds)
        self.clear_away()

    def power_cut(self) -> None:
        """Cuts the power: no process is notified, and data that is not on the disk is lost.

        The link goes down first: if the processes were only killed, their connections would close and peers would know
        at once. Then the disk stops taking writes, so that data which the kernel still holds for it is lost too.
        """
        if network.has_port(self.place, self.name):
            network.set_link(self.place, self.name, up=False)
        self.stop_writing()
        self.clear_away()

    def stop_writing(self) -> None:
        """Shuts the disk of a running host down: data that is not on it is lost, and every later write fails."""
        disk = self._disk()
        if disk is not None and not self.volatile:
            with contextlib.suppress(OSError):  # the host is just shutting down by itself
                descriptor = os.open(disk, os.O_RDONLY)
                try:
                    fcntl.ioctl(descriptor, _GOING_DOWN, _WITHOUT_FLUSH)
                finally:
                    os.close(descriptor)

    def clear_away(self) -> None:
        """Removes everything of the host from the kernel, however the host ended. Its files stay."""
        self.group.remove()
        network.detach(self.place, self.netns, self.name)
        self._wait_for_disk()

    def _wait_for_disk(self, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while self._disk_in_use():
            if time.monotonic() > deadline:
                raise Failure(f"The disk of {self.name} is still attached: losetup --associated {self.disk_image}")
            time.sleep(0.02)

    # What can be done to a running host

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` as root inside the host, without SSH.

        Raises Failure if the host is off or frozen.
        """
        process = self.require_running()
        enter = 'mkdir -p "$0/exec" && echo $$ >"$0/exec/cgroup.procs" && exec "$@"'
        environment = ["HOME=/root", "LANG=C.UTF-8", f"TERM={os.environ.get('TERM', 'dumb')}",
                       "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]  # fmt: skip
        return [
            "/bin/sh", "-c", enter, str(self.group.path),
            "nsenter", f"--target={process}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root",
            "env", "--ignore-environment", "--chdir=/", *environment, *command,
        ]  # fmt: skip

    def fill_disk(self) -> int:
        """Takes all free space of the host's disk; returns how many bytes that was."""
        self.require_running()
        disk = self._disk()
        if disk is None or self.volatile:
            raise Failure(f"{self.name} has no disk of its own to fill.", "Make it without --volatile.", Exit.USAGE)
        descriptor = os.open(disk / _FILL, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size = begun = os.fstat(descriptor).st_size
            piece = 1 << 40
            while piece >= 512:
                try:
                    os.posix_fallocate(descriptor, size, piece)
                    size += piece
                except OSError as error:
                    if error.errno not in {errno.ENOSPC, errno.EFBIG}:
                        raise
                    piece //= 2
            return size - begun
        finally:
            os.close(descriptor)

    def free_disk(self) -> None:
        """Frees what fill_disk took, also if the host is off."""
        disk = self._disk()
        if disk is not None:
            (disk / _FILL).unlink(missing_ok=True)
        elif self.disk_image.exists():
            run(["unshare", "--mount", "sh", "-ec", 'mount -o loop "$1" "$2" && rm -f "$2/$3"', "sh",
                 self.disk_image, self.directory / "disk", _FILL])  # fmt: skip
            self._wait_for_disk()


def _layer(first: Path, image: Path, path: str) -> Path:
    """Makes a directory in the upper layer, with the image's owners and modes on its path: the upper layer's count."""
    for part in reversed([Path(path), *Path(path).parents]):
        directory = first / part
        like = (image / part).stat()
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(like.st_mode & 0o7777)
        os.chown(directory, like.st_uid, like.st_gid)
    return first / path
