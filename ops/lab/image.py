"""The root filesystem that all hosts of all labs stand on: Debian 13 as a cloud provider hands it over.

An image is a directory named after the checksum of its recipe. It is the lower layer of the hosts' overlays, so it
never changes: a changed recipe makes another image.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ops.errors import Exit, Failure
from ops.inventories import debian_suite
from ops.lab.place import IMAGES
from ops.lab.shell import run
from ops.lab.sources import Mirror

# Packages that Debian's cloud image has and roles may rely on. Everything else must be installed by a role.
PACKAGES = (
    "adduser", "apt-utils", "ca-certificates", "cron", "curl", "dbus", "e2fsprogs", "iproute2", "iputils-ping",
    "kmod", "less", "libpam-systemd", "logrotate", "lsb-release", "netbase", "nftables", "openssh-server", "procps",
    "python3", "python3-apt", "sudo", "systemd", "systemd-sysv", "tzdata",
)  # fmt: skip
_OPTIONS = (
    "--variant=minbase", "--mode=root", "--format=directory",
    "--components=main",
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/man/*",
)  # fmt: skip
_RECIPE = Path(__file__).with_name("recipe.sh")


def checksum() -> str:
    """The name of the image that this recipe makes on this kind of processor."""
    # Only the suites matter, not the URL: all mirrors have the same packages.
    suites = Mirror("main", "security").one_line_sources(debian_suite())
    parts = [os.uname().machine, suites, *_OPTIONS, *PACKAGES, _RECIPE.read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def path() -> Path:
    return IMAGES / checksum()


def exists() -> bool:
    return path().is_dir()


def build(mirror: Mirror) -> Path:
    """Returns the image, building it first if it is not there. Two builders at once: the second waits for the first.

    Raises Failure with the end of mmdebstrap's log when the build fails; nothing is left of a failed build.
    """
    if exists():
        return path()
    IMAGES.mkdir(parents=True, exist_ok=True)
    with _locked() as lock:
        if exists():
            return path()
        for leftover in IMAGES.glob("building-*"):  # of a killed build: we have the lock, so none runs
            run(["rm", "-rf", "--one-file-system", leftover])
        scratch = Path(tempfile.mkdtemp(prefix="building-", dir=IMAGES))
        try:
            root = scratch / "root"
            _bootstrap(root, mirror, lock)
            # An image under its name must be complete, so sync it before it gets its name.
            os.sync()
            root.rename(path())
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return path()


def _bootstrap(root: Path, mirror: Mirror, lock: int) -> None:
    done = subprocess.run(
        [
            "mmdebstrap", *_OPTIONS, "--quiet",
            f"--include={','.join(PACKAGES)}",
            f"--customize-hook=sh {_RECIPE} \"$1\"",
            debian_suite(), str(root), "-",
        ],
        input=mirror.one_line_sources(debian_suite()),
        capture_output=True, text=True, check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        pass_fds=[lock],  # if this process is killed, the build keeps the lock until it ends
    )  # fmt: skip
    if done.returncode:
        raise Failure(
            f"mmdebstrap could not build the hosts' image:\n{done.stderr.strip()[-3000:]}",
            f"It took the packages from {mirror.main}; LONGHAUL_DEBIAN_MIRROR names another mirror.",
            Exit.UNAVAILABLE,
        )


@contextlib.contextmanager
def _locked() -> Iterator[int]:
    with (IMAGES / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
