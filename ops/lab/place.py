"""The names of a lab's files, and of its objects in the kernel.

Nothing here is state. Every name follows from the names of the lab and of the host, so a crashed lab can be found and
removed by its name alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ops.errors import Exit, Failure

LABS = Path("/var/lib/longhaul/labs")
IMAGES = Path("/var/cache/longhaul/images")
APT_CACHE = Path("/var/cache/longhaul/apt")
NETNS = Path("/run/netns")

# An interface name has 15 characters at most, and the machine's end of a lab's cable is "lh-" and the lab's name.
INTERFACE_LENGTH = 15
CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
LAB_NAME_LENGTH = 12
LAB_NAME = re.compile(rf"[a-z][a-z0-9-]{{0,{LAB_NAME_LENGTH - 1}}}")


@dataclass(frozen=True)
class Place:
    """The names of one lab."""

    name: str

    @staticmethod
    def of(name: str | None = None) -> Place:
        """The place of the named lab; without a name, of the one that LONGHAUL_LAB names (default `lab`).

        Raises Failure if the name cannot be used for network interfaces and cgroups.
        """
        chosen = name or os.environ.get("LONGHAUL_LAB") or "lab"
        if not LAB_NAME.fullmatch(chosen):
            raise Failure(
                f"{chosen!r} is not a name for a lab.",
                "Use up to 12 small letters, digits or hyphens, and begin with a letter (LONGHAUL_LAB).",
                Exit.USAGE,
            )
        return Place(chosen)

    @staticmethod
    def rehearsal(environment: str) -> Place:
        """The place of the rehearsal of an environment: beside the lab that LONGHAUL_LAB names, one of its own."""
        beside = Place.of().name
        return Place(f"{'re' if beside == 'lab' else beside}-{environment}"[:LAB_NAME_LENGTH].rstrip("-"))

    @staticmethod
    def valid_client(name: str) -> bool:
        """Whether a client may be called that."""
        return CLIENT_NAME.fullmatch(name) is not None

    @property
    def directory(self) -> Path:
        return LABS / self.name

    @property
    def inventory(self) -> Path:
        return self.directory / "inventory"

    @property
    def key(self) -> Path:
        """The private SSH key that opens every host of the lab."""
        return self.directory / "id_ed25519"

    @property
    def snapshots(self) -> Path:
        return self.directory / "snapshots"

    @property
    def netns(self) -> str:
        return f"longhaul.{self.name}"

    @property
    def cable(self) -> str:
        """The machine's end of the cable between the machine and the lab's bridge; it carries the gateway address."""
        return f"lh-{self.name}"

    @property
    def cache_group(self) -> str:
        return "cache"

    def host(self, host: str) -> Path:
        return self.directory / "hosts" / host

    def host_netns(self, host: str) -> str:
        return f"{self.netns}.host.{host}"

    def host_group(self, host: str) -> str:
        return f"host.{host}"

    def client_netns(self, client: str) -> str:
        return f"{self.netns}.client.{client}"


def port_name(host: str) -> str:
    """The bridge port of a host: the host's name, or if that is too long for an interface, its start and a checksum."""
    if len(host) <= INTERFACE_LENGTH:
        return host
    return f"{host[:7]}~{hashlib.sha256(host.encode()).hexdigest()[:7]}"
