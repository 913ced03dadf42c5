"""The environment's package repository (roles/apt_repository): lists and makes snapshots there, by SSH."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ops import remote
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.package_lock import PackageLock

GROUP = "packages"
PROGRAM = "/usr/local/sbin/longhaul-packages"
FETCH_SECONDS = 3600
"""Long enough for a first snapshot, which fetches every package of every host, perhaps over the Internet."""
INDEX_SECONDS = 300


@dataclass(frozen=True)
class Available:
    """The newest version that Debian has of a package, and whether its security archive has it."""

    version: str
    security: bool


class Repository:
    """The repository of an environment. Methods raise Failure with the repository's message, or if there is none."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def make(self, names: Iterable[str]) -> PackageLock:
        """A lock on a snapshot of the newest versions; uses an existing snapshot if it has the same versions."""
        said = self._ask("make", names=names, seconds=FETCH_SECONDS)
        return PackageLock(said["snapshot"], said["key"], said["versions"])

    def available(self, names: Iterable[str]) -> dict[str, Available]:
        """The newest versions, by name; nothing is fetched. Names that Debian has not are left out."""
        said = self._ask("available", names=names, seconds=INDEX_SECONDS)
        return {name: Available(**found) for name, found in said.items()}

    def snapshots(self) -> list[str]:
        """The names of all snapshots, the oldest first."""
        names: list[str] = self._ask("list")
        return names

    def lock_on(self, snapshot: str) -> PackageLock:
        """A lock on a snapshot that is there."""
        said = self._ask("show", snapshot)
        return PackageLock(said["snapshot"], said["key"], said["versions"])

    def _ask(self, *words: str, names: Iterable[str] | None = None, seconds: float = remote.ANSWER_SECONDS) -> Any:
        command = ["sudo", "-n", "-u", "packages", PROGRAM, *words]
        stdin = None if names is None else json.dumps(sorted(names))
        return remote.answer(
            self._environment,
            self._host(),
            command,
            stdin=stdin,
            seconds=seconds,
            show_progress=seconds > INDEX_SECONDS,
        )

    def _host(self) -> Host:
        hosts = self._environment.group(GROUP)
        if not hosts:
            raise Failure(
                f"The environment '{self._environment.name}' has no package repository.",
                f"Put a host into the group '{GROUP}' of its hosts.yml, then: ./inv provision",
                Exit.BAD_CONFIGURATION,
            )
        return hosts[0]
