"""A lab: the hosts of one inventory, booted on this machine. What its tasks and tests do is a method here."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ops import inventory_schema
from ops.cli import console
from ops.environment import LAB_ENVIRONMENT, Environment, source_of
from ops.errors import Exit, Failure
from ops.lab import cgroups, client, image, inventory, machine, network, snapshot, sources
from ops.lab.cache import Cache
from ops.lab.client import Client
from ops.lab.host import DISK_SIZE, Host
from ops.lab.network import Wiring
from ops.lab.place import LABS, NETNS, Place, port_name
from ops.lab.shell import run
from ops.progress import progress


@dataclass(frozen=True)
class HostStatus:
    """What lab.status says of a host. `uptime` is in seconds, None if the host is off."""

    name: str
    address: str
    state: str
    uptime: float | None


@dataclass(frozen=True)
class Lab:
    """One lab by its name; it need not exist. Methods raise Failure for whatever the caller can act on."""

    place: Place
    environment_name: str = LAB_ENVIRONMENT

    @classmethod
    def named(cls, name: str | None = None) -> Lab:
        """The lab of that name; without a name, the one of LONGHAUL_LAB. It is made from the environment `lab`, unless
        it is there already and a rehearsal.
        """
        place = Place.of(name)
        return cls(place, inventory.recorded_environment(place) or LAB_ENVIRONMENT)

    @classmethod
    def rehearsing(cls, environment: str) -> Lab:
        """The rehearsal of an environment. Raises Failure if there is no such environment, or it is the lab itself."""
        Environment.named(environment)
        if environment == LAB_ENVIRONMENT:
            raise Failure("The lab is where rehearsals take place; it needs none.", "Leave --rehearse out.", Exit.USAGE)
        return cls(Place.rehearsal(environment), environment)

    @property
    def sealed(self) -> bool:
        """Whether it is a rehearsal: it has the addresses of real hosts, and is joined to nothing."""
        return self.environment_name != LAB_ENVIRONMENT

    @property
    def name(self) -> str:
        return self.place.name

    # What there is

    @cached_property
    def source(self) -> Environment:
        """The environment that the lab is made from, with the addresses that stand in its inventory."""
        inventory_schema.check(source_of(self.environment_name))
        made_from = inventory.recorded_environment(self.place)
        if made_from not in {None, self.environment_name}:
            raise Failure(
                f"The lab {self.name} is made from the environment {made_from}, not from {self.environment_name}.",
                "Destroy it first (./inv lab.destroy), or name another lab in LONGHAUL_LAB.",
                Exit.USAGE,
            )
        return inventory.source_of(self.environment_name)

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

    def hosts(self) -> dict[str, Host]:
        """All hosts of the lab's inventory by name, made or not."""
        return self._hosts_in(self.environment)

    def _hosts_in(self, environment: Environment) -> dict[str, Host]:
        return {
            host.name: Host(
                self.place,
                host.name,
                host.address,
                str(host.variables.get("lab_disk", DISK_SIZE)),
                tuple(host.variables.get("lab_mounts", ())),
                self.sealed,
            )
            for host in environment.hosts.values()
        }

    def host(self, name: str) -> Host:
        """One host by name; raises Failure with the names that exist."""
        self.environment.host(name)
        return self.hosts()[name]

    def status(self) -> list[HostStatus]:
        """All hosts of the inventory, as the kernel sees them now. Empty if there is no such lab."""
        if not self.exists():
            return []
        down = network.ports_down(self.place)
        return [HostStatus(host.name, host.address, host.state(down), host.uptime()) for host in self.hosts().values()]

    def cache_is_running(self) -> bool:
        """Whether hosts can get packages."""
        return Cache(self.place, "").group.populated()

    def states(self) -> dict[str, str]:
        """Name -> state of all hosts."""
        return {host.name: host.state for host in self.status()}

    # Up and down

    def up(self, names: Sequence[str] = (), *, volatile: bool = False) -> list[Host]:
        """Boots the named hosts, or all, and waits until SSH answers. What is up already stays as it is.

        Frozen and unplugged hosts are left in that state. Returns the hosts that were asked for.
        """
        for name in names:
            self.source.host(name)
        self._wanted_wiring()  # refuses hosts that do not fit into one lab before anything is made
        chosen = list(dict.fromkeys(names)) or list(self.source.hosts)
        new = [name for name in chosen if not (self.place.host(name) / "image").is_symlink()]
        if new or not self.exists():
            machine.check(len(new))
        machine.require_root()
        machine.ensure_packages()
        with self._locked():
            mirror = sources.mirror()
            if not image.exists():
                with progress("building the hosts' image (once; about 40 s)"):
                    image.build(mirror)
            wiring = self._raise_network()
            cache = Cache(self.place, wiring.gateway, wiring.sealed)
            cache.start(mirror)
            self._make_key()
            if self.exists():
                self.write_inventory()
            else:
                inventory.write(self.place, self.source, wiring, ())
            hosts = self.hosts()
            self._create([hosts[name] for name in new], cache, volatile=volatile)
            self.write_inventory()
            self._boot([hosts[name] for name in chosen], wiring)
        return [hosts[name] for name in chosen]

    def _wanted_wiring(self) -> Wiring:
        """How the lab is wired if it can have the addresses of its inventory. Raises Failure if no lab can."""
        if self.sealed:
            return inventory.sealed_wiring(self.source)
        return Wiring.of_block(inventory.block_of(self.source))

    def _raise_network(self) -> Wiring:
        if self.sealed:
            wiring = self._wanted_wiring()
            network.raise_network(self.place, wiring)
            return wiring
        LABS.mkdir(parents=True, exist_ok=True)
        with _lock(LABS):  # two labs that start at once must not choose the same block
            block = network.block_of(self.place)
            recorded = inventory.recorded_block(self.place)
            if block is None or (recorded is not None and block != recorded):
                in_use = network.blocks_in_use()
                in_use.update(inventory.recorded_blocks(but=self.place))
                if recorded is None:
                    block = network.choose_block(inventory.block_of(self.source), in_use)
                elif recorded in in_use and in_use[recorded] != self.place.cable:
                    raise Failure(
                        f"The block {recorded} of the lab {self.name} is in use by {in_use[recorded]}.",
                        "Bring that one down, or destroy this lab: its hosts know their addresses.",
                        Exit.UNAVAILABLE,
                    )
                else:
                    block = recorded
            wiring = Wiring.of_block(block)
            network.raise_network(self.place, wiring)
            return wiring

    def _make_key(self) -> None:
        """Makes the key that opens the hosts. Who called sudo may use it too."""
        key = self.place.key
        if not key.with_suffix(".pub").is_file():
            key.unlink(missing_ok=True)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"longhaul-{self.name}", "-f", key])
        if "SUDO_UID" in os.environ:
            os.chown(key, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))

    def _create(self, hosts: Sequence[Host], cache: Cache, *, volatile: bool) -> None:
        base = image.path()
        authorized = self.place.key.with_suffix(".pub").read_text().strip()
        self._each("making disks", hosts, lambda host: host.create(base, authorized, cache.mirror, volatile=volatile))

    def _boot(self, hosts: Sequence[Host], wiring: Wiring) -> None:
        down = network.ports_down(self.place)
        states = {host.name: host.state(down) for host in hosts}
        for name, state in states.items():
            if state in {"frozen", "unplugged"}:
                console.print(f"{name} is {state} and stays so; lab.heal ends that")
        off = [host for host in hosts if states[host.name] == "stopped"]
        for host in off:
            if not host.image.is_dir():
                raise Failure(
                    f"The image of {host.name} is gone: {host.image}",
                    "Hosts cannot live without it. Make the lab anew: ./inv lab.destroy; ./inv lab.up",
                    Exit.UNAVAILABLE,
                )
        self._each("switching hosts on", off, lambda host: host.start(wiring))
        waiting = [host for host in hosts if states[host.name] in {"stopped", "running"}]
        self._each("waiting for SSH", waiting, Host.wait_ready, threads=len(waiting))

    def _each(self, what: str, hosts: Sequence[Host], act: Callable[[Host], object], threads: int = 4) -> None:
        """Does the same to several hosts beside each other. All are tried; then the first failure is raised."""
        if not hosts:
            return
        with ThreadPoolExecutor(max_workers=threads) as pool, progress(what, len(hosts)) as advance:
            futures = [pool.submit(act, host) for host in hosts]
            for _ in as_completed(futures):
                advance()
        for future in futures:
            future.result()

    def write_inventory(self) -> Path:
        """Brings the lab's inventory up to date with the one that this checkout has; returns its directory."""
        self._require()
        return inventory.write(self.place, self.source, self._recorded_wiring(), self.hosts().values())

    def _recorded_wiring(self) -> Wiring:
        if self.sealed:
            return self._wanted_wiring()
        block = inventory.recorded_block(self.place)
        assert block is not None
        return Wiring.of_block(block)

    def down(self, names: Sequence[str] = ()) -> None:
        """Shuts hosts down in order. Without names: all of them, then the cache and the network. Disks stay."""
        machine.require_root()
        self._require()
        for name in names:
            self.environment.host(name)
        with self._locked():
            self._stop([host for host in self.hosts().values() if not names or host.name in names])
            if not names:
                self._clear_kernel()

    def _stop(self, hosts: Sequence[Host]) -> None:
        on = [host for host in hosts if host.group.populated()]
        for host in on:
            host.ask_to_stop()
        self._each("shutting hosts down", on, Host.finish_stop, threads=len(on) or 1)

    def _clear_kernel(self) -> None:
        for path in NETNS.glob(f"{self.place.netns}.*"):
            client.end_processes(path.name)
        cgroups.remove_all(self.name)
        network.drop_network(self.place)

    def destroy(self) -> bool:
        """Removes the lab with its disks and snapshots, whatever state it is in; says whether there was anything.

        Works from names alone, so it also cleans up after a crash at any point of any other method.
        """
        machine.require_root()
        there = (
            self.place.directory.exists() or (NETNS / self.place.netns).exists() or bool(cgroups.groups_of(self.name))
        )
        with contextlib.ExitStack() as stack:
            if self.place.directory.exists():
                stack.enter_context(self._locked())
            for path in (self.place.directory / "hosts").glob("*"):
                Host(self.place, path.name, "").stop_writing()  # nobody will read it
            self._clear_kernel()
            snapshot.wait_for_disks(self.place)
            run(["rm", "-rf", "--one-file-system", self.place.directory])
        return there

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lab against other processes that would change which hosts run."""
        while True:
            self.place.directory.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                try:
                    held = stack.enter_context(_lock(self.place.directory))
                    now = self.place.directory.stat()
                except FileNotFoundError:
                    continue
                if held.st_ino != now.st_ino:  # destroyed, and made anew, while we waited
                    continue
                yield
                return

    # Inside hosts

    def exec(self, name: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Runs a command as root in a host, not over SSH, and returns its code and output."""
        return subprocess.run(
            self.host(name).command(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    # Faults

    def power_cut(self, name: str) -> None:
        """Takes a host's power away: its link, then what was not on its disk, then its processes."""
        self.host(name).power_cut()

    def freeze(self, name: str) -> None:
        """Stops every process of a host; its connections stay open and silent."""
        self._running(name).group.freeze(True)

    def thaw(self, name: str) -> None:
        """Lets a frozen host go on."""
        host = self.host(name)
        if host.group.frozen():
            host.group.freeze(False)

    def unplug(self, name: str) -> None:
        """Pulls a host's network cable out."""
        network.set_link(self.place, self._on(name).name, up=False)

    def plug(self, name: str) -> None:
        """Puts a host's network cable in."""
        network.set_link(self.place, self._on(name).name, up=True)

    def partition(self, one: str, other: str) -> None:
        """Two hosts no longer reach each other, but everybody else."""
        self.host(one)
        self.host(other)
        if one == other:
            raise Failure(f"{one} cannot be kept from itself.", "Name two hosts.", Exit.USAGE)
        self._require_network()
        wiring = self._recorded_wiring()
        if wiring.subnet_of(self.host(one).address) != wiring.subnet_of(self.host(other).address):
            raise Failure(
                f"{one} and {other} stand in different networks: what goes between them passes the lab's own router.",
                "Unplug one of them, or name two hosts of one network.",
                Exit.USAGE,
            )
        network.partition(self.place, one, other)

    def shape(self, name: str, rate: str) -> None:
        """Limits a host's line, each way."""
        network.bits_per_second(rate)
        host = self._on(name)
        network.shape(self.place, host.netns, host.name, rate)

    def fill_disk(self, name: str) -> int:
        """Leaves no byte free on a host's disk; returns how many bytes were."""
        return self.host(name).fill_disk()

    def heal(self) -> None:
        """Ends every fault but power cuts: partitions, frozen and unplugged hosts, slow lines, full disks."""
        self._require()
        self._require_network()
        network.heal_partitions(self.place)
        down = network.ports_down(self.place)
        for host in self.hosts().values():
            if not host.exists():
                continue
            if host.group.frozen():
                host.group.freeze(False)
            if port_name(host.name) in down:
                network.set_link(self.place, host.name, up=True)
            if host.group.populated():
                network.unshape(self.place, host.netns, host.name)
            host.free_disk()

    def _on(self, name: str) -> Host:
        host = self.host(name)
        if not host.group.populated():
            raise Failure(f"{name} is off.", f"Start it: ./inv lab.up {name}", Exit.TEMPORARY)
        return host

    def _running(self, name: str) -> Host:
        host = self._on(name)
        host.require_running()
        return host

    def _require_network(self) -> None:
        if not network.is_up(self.place):
            raise Failure(f"The lab {self.name} is down.", "Start it: ./inv lab.up", Exit.TEMPORARY)

    # Clients

    def client(self, name: str, rate: str | None = None) -> Client:
        """A client with an address of the lab and a line of `rate` each way (5KB: 5,000 bytes a second).

        One of that name is used again, with the new rate. Raises Failure for a host's name or a bad rate.
        """
        machine.require_root()
        self._require()
        self._require_network()
        if not Place.valid_client(name):
            raise Failure(f"{name!r} is not a name for a client.", "Use letters, digits and hyphens.", Exit.USAGE)
        if name in self.environment.hosts or port_name(name) == network.MACHINE_PORT:
            raise Failure(f"{name} is the name of a host already.", "Choose another for the client.", Exit.USAGE)
        if rate is not None:
            network.bits_per_second(rate)
        with self._locked():
            found = network.clients(self.place)
            made = Client(self.place, name, found.get(name, ""))
            if name not in found:
                wiring = self._recorded_wiring()
                taken = {host.address for host in self.hosts().values()}
                made = Client(self.place, name, network.free_client_address(self.place, wiring, taken))
                network.attach(self.place, made.netns, name, made.address, wiring)
            if rate is None:
                network.unshape(self.place, made.netns, name)
            else:
                network.shape(self.place, made.netns, name, rate)
        return made

    def remove_client(self, name: str) -> None:
        """Removes a client. None of that name is not an error."""
        Client(self.place, name, "").remove()

    # Snapshots

    def snapshots(self) -> list[str]:
        """Names of the lab's snapshots."""
        return snapshot.names(self.place)

    def snapshot(self, name: str) -> None:
        """Keeps the state of all disks under a name. Running hosts are shut down for it and started again."""
        machine.require_root()
        self._require()
        snapshot.check_name(name)
        with self._locked():
            made = [host for host in self.hosts().values() if host.exists()]
            on = [host for host in made if host.group.populated()]
            snapshot.check(self.place, name, made)
            self._stop(on)
            try:
                with progress("copying disks", len(made)) as copied:
                    snapshot.take(self.place, name, made, copied)
            finally:
                if on:
                    self._boot(on, self._raise_network())

    def restore(self, name: str) -> None:
        """Puts all disks back as they were in a snapshot, and boots all its hosts. What was done since is lost."""
        machine.require_root()
        self._require()
        if name not in self.snapshots():
            raise Failure(
                f"The lab {self.name} has no snapshot '{name}'.",
                f"It has: {', '.join(self.snapshots()) or 'none'}.",
                Exit.USAGE,
            )
        with self._locked():
            wiring = self._raise_network()
            Cache(self.place, wiring.gateway, wiring.sealed).start(sources.mirror())
            network.heal_partitions(self.place)
            made = [host for host in self.hosts().values() if host.exists()]
            self._each("switching hosts off", made, Host.power_cut)
            with progress("copying disks", len(snapshot.hosts_of(self.place, name))) as copied:
                snapshot.put_back(self.place, name, copied)
            self.write_inventory()
            self._boot([host for host in self.hosts().values() if host.exists()], wiring)

    def drop_snapshot(self, name: str) -> None:
        """Removes a snapshot. None of that name is not an error."""
        snapshot.drop(self.place, name)


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[os.stat_result]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield os.fstat(descriptor)
    finally:
        os.close(descriptor)
