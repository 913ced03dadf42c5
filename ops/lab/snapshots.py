"""Takes, restores and removes snapshots of a lab; shuts its hosts down before and boots them afterwards."""

from __future__ import annotations

from ops.errors import Exit, Failure
from ops.lab import machine, network, snapshot, sources
from ops.lab.cache import Cache
from ops.lab.host import LabHost
from ops.lab.lifecycle import Lifecycle
from ops.progress import progress


class Snapshots(Lifecycle):
    """A lab whose disks can be kept in snapshots and restored."""

    def snapshots(self) -> list[str]:
        """Names of the lab's snapshots."""
        return snapshot.names(self.place)

    def snapshot(self, name: str) -> None:
        """Takes a snapshot of all disks. Running hosts are shut down for it and started again."""
        machine.require_root()
        self._require()
        snapshot.require_name(name)
        with self._locked():
            made = [host for host in self.hosts().values() if host.exists()]
            on = [host for host in made if host.group.populated()]
            snapshot.require_possible(self.place, name, made)
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
            self._each("switching hosts off", made, LabHost.power_cut)
            with progress("copying disks", len(snapshot.hosts_of(self.place, name))) as copied:
                snapshot.put_back(self.place, name, copied)
            self.write_inventory()
            self._boot([host for host in self.hosts().values() if host.exists()], wiring)

    def drop_snapshot(self, name: str) -> None:
        """Removes a snapshot, if there is one of that name."""
        snapshot.drop(self.place, name)
