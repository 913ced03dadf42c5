"""Control groups of a lab: they hold its processes, and they are the only record of whether a host runs.

A host is running if its group is populated, and frozen if its group is frozen; a power cut kills its group. So there
are no pid files that could be wrong. If systemd is the machine's PID 1, it owns the tree: groups are then scopes that
systemd makes and delegates (https://systemd.io/CGROUP_DELEGATION). Elsewhere they are plain directories.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ops.errors import Failure

SLICE = "machine.slice"
# A killed process leaves its group only when its last system call has ended, and a write to a disk can take long.
KILL_SECONDS = 30.0


def mount_point() -> Path | None:
    """Where the machine has the unified hierarchy (cgroup v2), or None if it has none."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    return None


def systemd_owns_the_tree() -> bool:
    """Whether systemd must make the groups. On a machine with both versions of cgroups, nobody owns the v2 tree."""
    return Path("/run/systemd/system").is_dir() and mount_point() == Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cgroup:
    """One control group of a lab: of a host, of a client, or of the package cache."""

    lab: str
    name: str

    @property
    def path(self) -> Path:
        mount = mount_point()
        if mount is None:
            raise Failure(
                "This machine has no cgroup v2 hierarchy.", "Mount one: mount -t cgroup2 none /sys/fs/cgroup/unified"
            )
        if systemd_owns_the_tree():
            return mount / SLICE / self._scope
        return mount / "longhaul" / self.lab / self.name

    @property
    def _scope(self) -> str:
        return f"longhaul-{self.lab}.{self.name}.scope"

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` inside this group."""
        if systemd_owns_the_tree():
            return [
                "systemd-run", "--quiet", "--scope", "--collect", "--property=Delegate=yes",
                f"--slice={SLICE}", f"--unit={self._scope}", "--", *command,
            ]  # fmt: skip
        self.path.mkdir(parents=True, exist_ok=True)
        return ["/bin/sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(self.path), *command]

    def start(
        self,
        command: Sequence[str],
        *,
        output: IO[Any],
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Starts a program in this group that outlives this process; `output` gets also what starting it prints."""
        done = subprocess.run(
            # setsid forks, so that the program is not our child: init collects it when it ends.
            ["setsid", "--fork", *self.command(command)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            cwd="/",
            check=False,
        )
        if done.returncode:
            raise Failure(f"{command[0]} could not be started: setsid ended with code {done.returncode}.")

    def populated(self) -> bool:
        return self._event("populated")

    def frozen(self) -> bool:
        return self._event("frozen")

    def _event(self, name: str) -> bool:
        try:
            events = (self.path / "cgroup.events").read_text()
        except OSError:  # the group is gone, or going
            return False
        return f"{name} 1" in events.splitlines()

    def processes(self) -> Iterator[int]:
        """The process ids, as the machine numbers them, of this group and of the groups below it."""
        for directory, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError):
                yield from map(int, (Path(directory) / "cgroup.procs").read_text().split())

    def freeze(self, frozen: bool, seconds: float = KILL_SECONDS) -> None:
        """Freezes or thaws every process of the group; returns when the kernel has done it."""
        (self.path / "cgroup.freeze").write_text(f"{frozen:d}")
        deadline = time.monotonic() + seconds
        while self.frozen() is not frozen:
            if time.monotonic() > deadline:
                raise Failure(f"The kernel did not {'freeze' if frozen else 'thaw'} {self.path} in {seconds:.0f} s.")
            time.sleep(0.01)

    def kill(self) -> None:
        """Kills every process at once, also in a frozen group. Does not wait."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / "cgroup.kill").write_text("1")

    def wait_empty(self, seconds: float = KILL_SECONDS) -> bool:
        """Waits until no process is left; says whether that happened in time."""
        deadline = time.monotonic() + seconds
        while self.populated():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def remove(self) -> None:
        """Kills what runs here and removes the group and those below it. Nothing to do is not an error."""
        self.kill()
        if not self.wait_empty():
            raise Failure(f"Processes in {self.path} cannot be killed.", "See which: cat cgroup.procs there, then ps.")
        for directory, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(FileNotFoundError):  # systemd removes its scopes itself
                Path(directory).rmdir()


def groups_of(lab: str) -> list[Cgroup]:
    """The lab's groups that exist now."""
    mount = mount_point()
    if mount is None:
        return []
    if systemd_owns_the_tree():
        prefix, suffix = f"longhaul-{lab}.", ".scope"
        found = (mount / SLICE).glob(f"{prefix}*{suffix}")
        return [Cgroup(lab, path.name.removeprefix(prefix).removesuffix(suffix)) for path in sorted(found)]
    directory = mount / "longhaul" / lab
    return [Cgroup(lab, path.name) for path in sorted(directory.glob("*")) if path.is_dir()]


def remove_all(lab: str) -> None:
    """Kills everything that runs in the lab and removes its groups."""
    groups = groups_of(lab)
    for group in groups:
        group.kill()
    for group in groups:
        group.remove()
    mount = mount_point()
    if mount is not None and not systemd_owns_the_tree():
        for directory in (mount / "longhaul" / lab, mount / "longhaul"):
            with contextlib.suppress(OSError):  # missing, or another lab's groups are still in it
                directory.rmdir()
