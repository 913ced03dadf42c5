"""The package cache of a lab: hosts cannot reach the Internet, so they get all packages from it.

The cache is apt-cacher-ng, run as a process of the lab in a control group of its own. It listens on the lab's gateway
address only. It serves two archives, Debian's and its security archive, from the machine's own mirror; it refuses all
other requests.

A sealed lab has no network connection to the machine. For it, the cache listens on a loopback address of the machine,
and a relay (systemd-socket-proxyd(8)) forwards bytes from a socket that was opened within the lab, but no packets.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ops.errors import Exit, Failure
from ops.lab.cgroups import Cgroup
from ops.lab.place import APT_CACHE, NETNS, Place
from ops.lab.shell import run
from ops.lab.sources import Mirror

PORT = 3142
RELAY = Path("/usr/lib/systemd/systemd-socket-proxyd")
START_SECONDS = 10.0
_USER = "apt-cacher-ng"


@dataclass(frozen=True)
class Cache:
    """The cache of one lab."""

    place: Place
    address: str
    sealed: bool = False

    @property
    def _listens_on(self) -> str:
        if not self.sealed:
            return self.address
        # One of the 16 million loopback addresses, different for each lab.
        digest = hashlib.sha256(self.place.name.encode()).digest()
        return f"127.{digest[0]}.{digest[1]}.{digest[2] % 254 + 1}"

    @property
    def group(self) -> Cgroup:
        return Cgroup(self.place.name, self.place.cache_group)

    @property
    def mirror(self) -> Mirror:
        """The archives as hosts reach them."""
        base = f"http://{self.address}:{PORT}"
        return Mirror(f"{base}/debian", f"{base}/debian-security")

    def start(self, upstream: Mirror) -> None:
        """Starts the cache if it is not running. Raises Failure if it does not answer in time."""
        if self.group.populated():
            return
        directory = self.place.directory / "cache"
        directory.mkdir(parents=True, exist_ok=True)
        with _slot() as (store, lock):
            seed(store)
            account = pwd.getpwnam(_USER)
            for path in (store, directory):
                if path.stat().st_uid != account.pw_uid:  # new, or the package was reinstalled
                    run(["chown", "--recursive", f"{account.pw_uid}:{account.pw_gid}", path])
            (directory / "acng.conf").write_text(self._configuration(store, directory, upstream))
            shutil.copyfile("/etc/apt-cacher-ng/security.conf", directory / "security.conf")
            (directory / "security.conf").chmod(0o644)
            drop = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
            serve = ["apt-cacher-ng", "-c", str(directory), "ForeGround=1"]
            with (directory / "output.log").open("w") as output:
                # The lock on the store lives as long as a process that holds this descriptor.
                self.group.start([*drop, *serve], output=output, pass_fds=[lock])
        self._wait(directory)
        if self.sealed:
            self._start_relay(directory)

    def _start_relay(self, directory: Path) -> None:
        # It starts in the lab's network namespace and opens the socket there; at the first connection it enters the
        # namespace of the cache.
        home = f"/proc/{next(self.group.processes())}/ns/net"
        relay = ["nsenter", f"--net={home}", str(RELAY), f"{self._listens_on}:{PORT}"]
        within = ["nsenter", f"--net={NETNS / self.place.netns}"]
        with (directory / "relay.log").open("w") as output:
            self.group.start(
                [*within, "systemd-socket-activate", f"--listen={self.address}:{PORT}", *relay], output=output
            )

    def _wait(self, directory: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self._listens_on, PORT), timeout=1):
                return
            time.sleep(0.05)
        logs = sorted(path for path in directory.iterdir() if path.suffix in {".log", ".err"})
        said = "\n".join(path.read_text(errors="replace")[-2000:] for path in logs)
        self.group.remove()
        raise Failure(
            f"The package cache did not start on {self._listens_on}:{PORT}: {said.strip() or 'it said nothing'}",
            f"Its configuration and logs are in {directory}.",
            Exit.UNAVAILABLE,
        )

    def _configuration(self, store: Path, directory: Path, upstream: Mirror) -> str:
        return (
            f"CacheDir: {store}\n"
            f"LogDir: {directory}\n"
            "SupportDir: /usr/lib/apt-cacher-ng\n"
            f"BindAddress: {self._listens_on}\n"
            f"Port: {PORT}\n"
            "SocketPath:\n"
            f"Remap-debrep: /debian ; {upstream.main}\n"
            f"Remap-secdeb: /debian-security ; {upstream.security}\n"
            "ForceManaged: 1\n"  # nothing but the two archives
            "PassThroughPattern: ^$\n"  # and no tunnels (CONNECT)
            "ExThreshold: 30\n"
            "VerboseLog: 0\n"
        )

    def stop(self) -> None:
        """Stops the cache. The packages that it has fetched stay for the next start."""
        self.group.remove()


@contextlib.contextmanager
def _slot() -> Iterator[tuple[Path, int]]:
    """The first store that no running cache uses, locked; and the file descriptor that holds the lock.

    Two apt-cacher-ng cannot share a folder, so each lab that runs has a store of its own. The kernel releases the lock
    when the process ends, so the store of a killed cache is free again.
    """
    APT_CACHE.mkdir(parents=True, exist_ok=True)
    for number in range(1000):
        store = APT_CACHE / str(number)
        store.mkdir(exist_ok=True)
        descriptor = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield store, descriptor
            return
        finally:
            os.close(descriptor)
    raise Failure(f"Every store below {APT_CACHE} is in use.", code=Exit.UNAVAILABLE)


def seed(store: Path) -> None:
    """Gives a store the packages that other stores have, by hard links: a package of one version never changes.

    Only complete files are linked: the length that the server announced is in the file beside each package.
    """
    for other in sorted(APT_CACHE.iterdir()):
        if other == store or not other.is_dir():
            continue
        for head in other.rglob("*.deb.head"):
            package = head.with_suffix("")
            target = store / package.relative_to(other)
            if target.exists() or not _complete(package, head):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            account = pwd.getpwnam(_USER)
            for parent in target.relative_to(store).parents:
                os.chown(store / parent, account.pw_uid, account.pw_gid)
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                target.hardlink_to(package)
                shutil.copyfile(head, target.with_name(head.name))
                os.chown(target.with_name(head.name), account.pw_uid, account.pw_gid)


def _complete(package: Path, head: Path) -> bool:
    try:
        lines = head.read_text(errors="replace").splitlines()
        length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:"))
        return package.stat().st_size == length
    except (FileNotFoundError, StopIteration, ValueError):
        return False
