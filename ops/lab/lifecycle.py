"""The lifecycle of a lab: makes and boots its hosts, shuts them down, and removes the lab."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from ops.console import console
from ops.errors import Exit, Failure
from ops.lab import cgroups, client, image, inventory, machine, network, snapshot, sources
from ops.lab.cache import Cache
from ops.lab.host import LabHost
from ops.lab.known import KnownLab, lock_folder
from ops.lab.network import Wiring
from ops.lab.place import LABS, NETNS
from ops.lab.shell import run
from ops.progress import progress


class Lifecycle(KnownLab):
    """A lab's hosts, made, booted, shut down and removed."""

    def up(self, names: Sequence[str] = (), *, volatile: bool = False) -> list[LabHost]:
        """Boots the named hosts, or all, and waits until SSH answers. Hosts that are up stay as they are.

        Frozen and unplugged hosts stay frozen and unplugged. Returns the hosts that were asked for.
        """
        for name in names:
            self.source.host(name)
        self._wanted_wiring()  # refuses hosts that do not fit into one lab before anything is made
        chosen = list(dict.fromkeys(names)) or list(self.source.hosts)
        new = [name for name in chosen if not (self.place.host(name) / "image").is_symlink()]
        if new or not self.exists():
            machine.require_capable(len(new))
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

    def _raise_network(self) -> Wiring:
        if self.sealed:
            wiring = self._wanted_wiring()
            network.raise_network(self.place, wiring)
            return wiring
        LABS.mkdir(parents=True, exist_ok=True)
        with lock_folder(LABS):  # two labs that start at once must not choose the same block
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
                        "Shut that one down. Or destroy this lab, as its hosts cannot change their addresses.",
                        Exit.UNAVAILABLE,
                    )
                else:
                    block = recorded
            wiring = Wiring.of_block(block)
            network.raise_network(self.place, wiring)
            return wiring

    def _make_key(self) -> None:
        """Makes the SSH key of the hosts. The user who called sudo may use it too."""
        key = self.place.key
        if not key.with_suffix(".pub").is_file():
            key.unlink(missing_ok=True)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"longhaul-{self.name}", "-f", key])
        if "SUDO_UID" in os.environ:
            os.chown(key, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))

    def _create(self, hosts: Sequence[LabHost], cache: Cache, *, volatile: bool) -> None:
        base = image.path()
        authorized = self.place.key.with_suffix(".pub").read_text().strip()
        self._each("making disks", hosts, lambda host: host.create(base, authorized, cache.mirror, volatile=volatile))

    def _boot(self, hosts: Sequence[LabHost], wiring: Wiring) -> None:
        down = network.ports_down(self.place)
        states = {host.name: host.state(down) for host in hosts}
        for name, state in states.items():
            if state in {"frozen", "unplugged"}:
                console.print(f"{name} is {state} and stays so; to end that: ./inv lab.heal")
        off = [host for host in hosts if states[host.name] == "stopped"]
        for host in off:
            if not host.image.is_dir():
                raise Failure(
                    f"The image of {host.name} is gone: {host.image}",
                    "Hosts cannot run without it. Make the lab again: ./inv lab.destroy; ./inv lab.up",
                    Exit.UNAVAILABLE,
                )
        self._each("switching hosts on", off, lambda host: host.start(wiring))
        waiting = [host for host in hosts if states[host.name] in {"stopped", "running"}]
        self._each("waiting for SSH", waiting, LabHost.wait_ready, threads=len(waiting))

    def _each(self, what: str, hosts: Sequence[LabHost], act: Callable[[LabHost], object], threads: int = 4) -> None:
        """Calls `act` for several hosts at the same time. All are tried; then the first failure is raised."""
        if not hosts:
            return
        with ThreadPoolExecutor(max_workers=threads) as pool, progress(what, len(hosts)) as advance:
            futures = [pool.submit(act, host) for host in hosts]
            for _ in as_completed(futures):
                advance()
        for future in futures:
            future.result()

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

    def _stop(self, hosts: Sequence[LabHost]) -> None:
        on = [host for host in hosts if host.group.populated()]
        for host in on:
            host.ask_to_stop()
        self._each("shutting hosts down", on, LabHost.finish_stop, threads=len(on) or 1)

    def _clear_kernel(self) -> None:
        for path in NETNS.glob(f"{self.place.netns}.*"):
            client.end_processes(path.name)
        cgroups.remove_all(self.name)
        network.drop_network(self.place)

    def destroy(self) -> bool:
        """Removes the lab with its disks and snapshots, whatever its state; returns whether there was anything.

        It needs only names, so it also cleans up after a crash at any point of any other method.
        """
        machine.require_root()
        there = (
            self.place.directory.exists() or (NETNS / self.place.netns).exists() or bool(cgroups.groups_of(self.name))
        )
        with contextlib.ExitStack() as stack:
            if self.place.directory.exists():
                stack.enter_context(self._locked())
            for path in (self.place.directory / "hosts").glob("*"):
                LabHost(self.place, path.name, "").stop_writing()  # nobody will read it
            self._clear_kernel()
            snapshot.wait_for_disks(self.place)
            run(["rm", "-rf", "--one-file-system", self.place.directory])
        return there
