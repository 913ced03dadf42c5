"""A client of a lab: a network namespace with an address and a line of its own, for tests with slow lines."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ops.lab import network
from ops.lab.place import NETNS, Place
from ops.lab.shell import run


@dataclass(frozen=True)
class Client:
    """A client that exists. A program that runs in it reaches the lab and nothing else."""

    place: Place
    name: str
    address: str

    @property
    def netns(self) -> str:
        return self.place.client_netns(self.name)

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on the client's line; it sees the machine's own files."""
        return ["nsenter", f"--net={NETNS / self.netns}", "--", *command]

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """subprocess.run on the client's line."""
        return subprocess.run(self.command(command), check=options.pop("check", False), **options)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """subprocess.Popen on the client's line."""
        return subprocess.Popen(self.command(command), **options)

    def remove(self) -> None:
        """Ends the processes on the client's line, and removes the line."""
        end_processes(self.netns)
        network.detach(self.place, self.netns, self.name)


def end_processes(netns: str) -> None:
    """Kills the processes of a network namespace: they would keep it, and its addresses, alive."""
    for process in run(["ip", "netns", "pids", netns], check=False).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
