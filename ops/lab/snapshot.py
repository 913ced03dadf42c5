"""The files of a snapshot: copies of all disks of a lab, made while its hosts are off.

On a filesystem that can do it (XFS, btrfs), a copy shares its blocks with the original. Elsewhere it needs the space
that was written to the disk, not the size of the disk.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ops.errors import Exit, Failure
from ops.inventories import PACKAGES_FILE
from ops.lab.host import LabHost
from ops.lab.machine import SPARE_BYTES
from ops.lab.place import Place
from ops.lab.shell import run

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PACKAGES = "packages.yml"
"""The lab's lock of packages: it names a snapshot on one of the disks."""
_PARTS = ("disk.img", "first", "image")


def names(place: Place) -> list[str]:
    """The complete snapshots, oldest first."""
    found = [path for path in place.snapshots.glob("*") if not path.name.startswith(".")]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def require_name(name: str) -> None:
    """Raises Failure unless `name` can name a snapshot."""
    if not _NAME.fullmatch(name):
        raise Failure(
            f"{name!r} is not a name for a snapshot.", "Use letters, digits, dots, hyphens, underscores.", Exit.USAGE
        )


def require_possible(place: Place, name: str, hosts: Sequence[LabHost]) -> None:
    """Raises Failure if a snapshot cannot be taken: no hosts, no disks, a name that is used, or too little space."""
    if not hosts:
        raise Failure("The lab has no hosts to take a snapshot of.", "Start it: ./inv lab.up", Exit.TEMPORARY)
    volatile = [host.name for host in hosts if host.volatile]
    if volatile:
        raise Failure(
            f"Volatile hosts have no disk to copy: {', '.join(volatile)}.", "Make them without --volatile.", Exit.USAGE
        )
    if name in names(place):
        raise Failure(
            f"There is a snapshot '{name}' already.",
            f"Choose another name, or remove it: ./inv lab.drop-snapshot {name}",
            Exit.USAGE,
        )
    needed = SPARE_BYTES + sum(host.disk_image.stat().st_blocks * 512 for host in hosts)
    free = shutil.disk_usage(place.directory).free
    if free < needed:
        raise Failure(
            f"The snapshot needs up to {needed / 1e9:.1f} GB, and {place.directory} has {free / 1e9:.1f} GB free.",
            "Free some space, or remove another snapshot: ./inv lab.drop-snapshot NAME",
            Exit.UNAVAILABLE,
        )


def take(place: Place, name: str, hosts: Sequence[LabHost], copied: Callable[[], None]) -> None:
    """Copies the disks of hosts that are off, and calls `copied` after each. A snapshot is there completely or not."""
    scratch = place.snapshots / ".taking"
    run(["rm", "-rf", "--one-file-system", scratch])
    for host in hosts:
        _copy(host.directory, scratch / host.name)
        copied()
    lock = place.inventory / PACKAGES_FILE
    if lock.is_file():
        shutil.copyfile(lock, scratch / _PACKAGES)
    scratch.rename(place.snapshots / name)


def hosts_of(place: Place, name: str) -> list[str]:
    """Names of the hosts that a snapshot holds."""
    return sorted(path.name for path in (place.snapshots / name).iterdir() if path.is_dir())


def put_back(place: Place, name: str, copied: Callable[[], None]) -> None:
    """Replaces all hosts by those of the snapshot; calls `copied` after each disk.

    Hosts that were made later are removed with their data.
    """
    hosts, scratch, old = place.directory / "hosts", place.directory / ".restoring", place.directory / ".restored"
    for leftover in (scratch, old):
        run(["rm", "-rf", "--one-file-system", leftover])
    for host in hosts_of(place, name):
        _copy(place.snapshots / name / host, scratch / host)
        for mount in ("disk", "root"):
            (scratch / host / mount).mkdir(exist_ok=True)
        copied()
    if hosts.exists():
        hosts.rename(old)
    scratch.rename(hosts)
    lock, kept_lock = place.inventory / PACKAGES_FILE, place.snapshots / name / _PACKAGES
    lock.unlink(missing_ok=True)
    if kept_lock.is_file():
        shutil.copyfile(kept_lock, lock)
    run(["rm", "-rf", "--one-file-system", old])


def drop(place: Place, name: str) -> None:
    """Removes a snapshot, if there is one of that name."""
    require_name(name)
    run(["rm", "-rf", "--one-file-system", place.snapshots / name])


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    run(["cp", "--archive", "--reflink=auto", "--sparse=auto", *(source / part for part in _PARTS), target])


def wait_for_disks(place: Place, seconds: float = 30.0) -> None:
    """Waits until the kernel has detached every disk of the lab."""
    deadline = time.monotonic() + seconds
    while attached := _attached(place):
        if time.monotonic() > deadline:
            raise Failure(f"The kernel still has a disk of the lab: {', '.join(attached)}", "See losetup and lsof.")
        time.sleep(0.02)


def _attached(place: Place) -> list[str]:
    found = []
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if device.read_text().startswith(f"{place.directory}/"):
                found.append(device.parts[3])
    return found
