"""The packages that are installed on the hosts, and how they differ from a lock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ops import remote
from ops.environment import Environment, Host


@dataclass(frozen=True)
class Installed:
    """The packages of one host (name -> version), and its services that wait for a restart."""

    packages: Mapping[str, str]
    stale: Sequence[str]


@dataclass(frozen=True)
class PackageChange:
    """A package that would get another version, and on which hosts."""

    package: str
    before: str
    after: str
    hosts: tuple[str, ...]


def ask(environment: Environment) -> dict[str, Installed]:
    """Host name -> what is installed there. Raises Failure that names the hosts which do not answer."""

    def one(host: Host) -> Installed:
        return Installed(**remote.ask_program(environment, host, "installed_packages"))

    return remote.of_all(list(environment.hosts.values()), one)


def names(found: Mapping[str, Installed]) -> set[str]:
    """Every package that any host has."""
    return {name for installed in found.values() for name in installed.packages}


def changes(found: Mapping[str, Installed], versions: Mapping[str, str]) -> list[PackageChange]:
    """What bringing the hosts to `versions` would change, by package. What `versions` does not name stays."""
    hosts = defaultdict(list)
    for host, installed in found.items():
        for name, version in installed.packages.items():
            if versions.get(name, version) != version:
                hosts[name, version].append(host)
    return [PackageChange(name, before, versions[name], tuple(hosts[name, before])) for name, before in sorted(hosts)]


def hosts_of(differences: Sequence[PackageChange]) -> list[str]:
    """The hosts that any of the changes is on."""
    return sorted({host for change in differences for host in change.hosts})
