"""The clients of a lab: made with an address and a line of a chosen speed, and removed."""

from __future__ import annotations

from ops.errors import Exit, Failure
from ops.lab import machine, network
from ops.lab.client import Client
from ops.lab.known import KnownLab
from ops.lab.place import Place, port_name


class Clients(KnownLab):
    """A lab that clients can be joined to."""

    def client(self, name: str, rate: str | None = None) -> Client:
        """A client with an address of the lab and a line of `rate` each way (5KB: 5,000 bytes a second).

        An existing client of that name gets the new rate. Raises Failure for a host's name or a bad rate.
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
        """Removes a client, if there is one of that name."""
        Client(self.place, name, "").remove()
