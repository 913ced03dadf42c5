"""The faults of a lab's hosts: causes and ends power cut, freeze, unplug, partition, slow line and full disk."""

from __future__ import annotations

from ops.errors import Exit, Failure
from ops.lab import network
from ops.lab.host import LabHost
from ops.lab.known import KnownLab
from ops.lab.place import port_name


class Faults(KnownLab):
    """A lab whose hosts can be broken. A fault of a host that is off raises Failure, except a power cut."""

    def power_cut(self, name: str) -> None:
        """Cuts a host's power: takes its link down, drops what is not yet on its disk, and kills its processes."""
        self.host(name).power_cut()

    def freeze(self, name: str) -> None:
        """Stops every process of a host; its connections stay open and silent."""
        self._running(name).group.freeze(True)

    def thaw(self, name: str) -> None:
        """Lets a frozen host continue."""
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
        """Keeps two hosts from reaching each other; both still reach all others."""
        self.host(one)
        self.host(other)
        if one == other:
            raise Failure(f"{one} cannot be kept from itself.", "Name two hosts.", Exit.USAGE)
        self._require_network()
        wiring = self._recorded_wiring()
        if wiring.subnet_of(self.host(one).address) != wiring.subnet_of(self.host(other).address):
            raise Failure(
                f"{one} and {other} are in different networks, and the lab cannot cut the route between these.",
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
        """Fills a host's disk to the last byte; returns how many bytes were free."""
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

    def _on(self, name: str) -> LabHost:
        host = self.host(name)
        if not host.group.populated():
            raise Failure(f"{name} is off.", f"Start it: ./inv lab.up {name}", Exit.TEMPORARY)
        return host

    def _running(self, name: str) -> LabHost:
        host = self._on(name)
        host.require_running()
        return host
