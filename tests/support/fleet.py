"""A fleet in memory, for tests of deployments: a store, and hosts whose playbooks only say their name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from ops.ansible import Change
from ops.deployment.releases import Releases
from ops.deployment.store import Store
from ops.errors import Exit, Failure

OLD, NEW = "20260101T000000-aaaaaaaaaaaa", "20260202T000000-bbbbbbbbbbbb"
HOSTS = ["worker1", "worker2", "web1", "web2"]


@dataclass
class Memory:
    """A store whose leases end when the test says so; with `away`, nobody answers."""

    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    leases: set[str] = field(default_factory=set)
    granted: int = 0
    away: bool = False

    def _reach(self) -> None:
        if self.away:
            raise Failure("etcd does not answer", code=Exit.UNAVAILABLE)

    def get(self, key: str) -> str | None:
        self._reach()
        return self.keys.get(key, (None, ""))[0]

    def list(self, folder: str) -> dict[str, str]:
        self._reach()
        return {key: text for key, (text, _) in sorted(self.keys.items()) if key.startswith(folder)}

    def put(self, key: str, text: str, *, lease: str = "0") -> None:
        self._reach()
        self.keys[key] = (text, lease)

    def create(self, key: str, word: str, *, lease: str) -> bool:
        self._reach()
        return self.keys.setdefault(key, (word, lease)) == (word, lease)

    def delete(self, key: str) -> None:
        self._reach()
        self.keys.pop(key, None)

    def grant(self, seconds: int) -> str:
        self._reach()
        self.granted += 1
        self.leases.add(lease := f"{self.granted:x}")
        return lease

    def renew(self, lease: str) -> bool:
        self._reach()
        return lease in self.leases

    def revoke(self, lease: str) -> None:
        self._reach()
        self.leases.discard(lease)
        self.keys = {key: entry for key, entry in self.keys.items() if entry[1] != lease}


def store(memory: Memory) -> Store:
    return cast(Store, memory)


@dataclass
class World:
    """Hosts whose playbooks change nothing but `current`; `broken` names what fails."""

    current: dict[str, str] = field(default_factory=lambda: dict.fromkeys(HOSTS, OLD))
    broken: Callable[[str, str, str], bool] = lambda _playbook, _limit, _version: False
    processors: dict[str, str] = field(default_factory=lambda: dict.fromkeys(HOSTS, "1"))
    stuck: set[str] = field(default_factory=set)
    silent: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    def play(
        self, _environment: object, playbook: str, *, limit: str = "", extra_vars: dict[str, str] | None = None
    ) -> list[Change]:
        if extra_vars is None:
            self.done.append(playbook)
            if self.broken(playbook, limit, ""):
                raise Failure(f"{playbook} does not work")
            return []
        self.told.append(extra_vars)
        version = extra_vars.get("release_version", "") or extra_vars["release_processors_version"]
        self.done.append(f"{playbook.removeprefix('release-')} {limit} {'new' if version == NEW else 'old'}".strip())
        if playbook == "processors-ship" and limit in self.stuck:
            self.processors[limit] = version  # it died before it could return
            raise Failure(f"{limit} is gone")
        if self.broken(playbook, limit, version):
            raise Failure(f"{limit} does not work")
        if playbook == "processors-ship":
            self.processors[limit] = version
        if playbook == "release-switch":
            self.current[limit] = version
        return []

    def ask(self, _environment: object, hosts: list[Any]) -> dict[str, Releases]:
        return {
            host.name: Releases(
                host=host.name,
                current=self.current[host.name],
                switching=OLD if host.name in self.stuck else "",
                installed=[OLD, NEW],
                heads={},
                processors=self.processors[host.name],
            )
            for host in hosts
        }
