"""The facts about a lab: its files, its hosts and their state, its inventory, and the lock that protects changes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from ops import inventory_schema
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.inventories import LAB_ENVIRONMENT, inventory_of
from ops.lab import inventory, network
from ops.lab.cache import Cache
from ops.lab.host import DISK_SIZE, LabHost
from ops.lab.network import Wiring
from ops.lab.place import Place


@dataclass(frozen=True)
class HostState:
    """The state of a host as lab.status shows it. `uptime` is in seconds, None if the host is off."""

    name: str
    address: str
    state: str
    uptime: float | None


@dataclass(frozen=True)
class KnownLab:
    """One lab by its name; it need not exist. Methods raise Failure for errors that the user can act on."""

    place: Place
    environment_name: str = LAB_ENVIRONMENT

    @classmethod
    def named(cls, name: str | None = None) -> Self:
        """The lab of that name, or of LONGHAUL_LAB. Its environment is `lab`, unless it is a rehearsal already."""
        place = Place.of(name)
        return cls(place, inventory.recorded_environment(place) or LAB_ENVIRONMENT)

    @classmethod
    def rehearsing(cls, environment: str) -> Self:
        """The rehearsal of an environment. Raises Failure if there is no such environment, or it is the lab itself."""
        inventory_schema.validate(inventory_of(environment))
        if environment == LAB_ENVIRONMENT:
            raise Failure("The lab itself cannot be rehearsed.", "Leave --rehearse out.", Exit.USAGE)
        return cls(Place.rehearsal(environment), environment)

    @property
    def sealed(self) -> bool:
        """Whether it is a rehearsal: it has the addresses of real hosts, and no connection to any other network."""
        return self.environment_name != LAB_ENVIRONMENT

    @property
    def name(self) -> str:
        return self.place.name

    @cached_property
    def source(self) -> Environment:
        """The environment that the lab is made from, with the addresses of the original inventory."""
        inventory_schema.validate(inventory_of(self.environment_name))
        made_from = inventory.recorded_environment(self.place)
        if made_from not in {None, self.environment_name}:
            raise Failure(
                f"The lab {self.name} is made from the environment {made_from}, not from {self.environment_name}.",
                "Destroy it first (./inv lab.destroy), or name another lab in LONGHAUL_LAB.",
                Exit.USAGE,
            )
        return Environment.of_checkout(self.environment_name)

    def exists(self) -> bool:
        """Whether the lab has been made; it may be down."""
        return inventory.recorded_environment(self.place) is not None

    @property
    def environment(self) -> Environment:
        """The environment as this lab has it, with the lab's own addresses. Raises Failure if there is no such lab."""
        self._require()
        return inventory.environment_of(self.place, self.environment_name)

    def _require(self) -> None:
        if not self.exists():
            raise Failure(f"There is no lab '{self.name}'.", "Start it: ./inv lab.up", Exit.TEMPORARY)

    def hosts(self) -> dict[str, LabHost]:
        """All hosts of the lab's inventory by name, made or not."""
        return self._hosts_in(self.environment)

    def _hosts_in(self, environment: Environment) -> dict[str, LabHost]:
        return {
            host.name: LabHost(
                self.place,
                host.name,
                host.address,
                str(host.variables.get("lab_disk", DISK_SIZE)),
                tuple(host.variables.get("lab_mounts", ())),
                self.sealed,
            )
            for host in environment.hosts.values()
        }

    def host(self, name: str) -> LabHost:
        """One host by name; raises Failure with the names that exist."""
        self.environment.host(name)
        return self.hosts()[name]

    def status(self) -> list[HostState]:
        """All hosts of the inventory, as the kernel sees them now. Empty if there is no such lab."""
        if not self.exists():
            return []
        down = network.ports_down(self.place)
        return [HostState(host.name, host.address, host.state(down), host.uptime()) for host in self.hosts().values()]

    def cache_is_running(self) -> bool:
        """Whether hosts can get packages."""
        return Cache(self.place, "").group.populated()

    def states(self) -> dict[str, str]:
        """Name -> state of all hosts."""
        return {host.name: host.state for host in self.status()}

    def exec(self, name: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Runs a command as root in a host, not over SSH, and returns its code and output."""
        return subprocess.run(
            self.host(name).command(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    def write_inventory(self) -> None:
        """Brings the lab's inventory up to date with the one that this checkout has."""
        self._require()
        inventory.write(self.place, self.source, self._recorded_wiring(), self.hosts().values())

    def refresh_inventory(self) -> None:
        """Like `write_inventory`, if this process may write it and the lab is not being destroyed."""
        if os.access(self.place.inventory, os.W_OK):
            with contextlib.suppress(FileNotFoundError):
                self.write_inventory()

    def _recorded_wiring(self) -> Wiring:
        if self.sealed:
            return self._wanted_wiring()
        block = inventory.recorded_block(self.place)
        assert block is not None
        return Wiring.of_block(block)

    def _wanted_wiring(self) -> Wiring:
        """The networks with the addresses of the original inventory. Raises Failure if a lab cannot have them."""
        if self.sealed:
            return inventory.sealed_wiring(self.source)
        return Wiring.of_block(inventory.block_of(self.source))

    def _require_network(self) -> None:
        if not network.is_up(self.place):
            raise Failure(f"The lab {self.name} is down.", "Start it: ./inv lab.up", Exit.TEMPORARY)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lab against other processes that would change which hosts run."""
        while True:
            self.place.directory.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                try:
                    held = stack.enter_context(lock_folder(self.place.directory))
                    now = self.place.directory.stat()
                except FileNotFoundError:
                    continue
                if held.st_ino != now.st_ino:  # destroyed and made again while we waited
                    continue
                yield
                return


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[os.stat_result]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield os.fstat(descriptor)
    finally:
        os.close(descriptor)
