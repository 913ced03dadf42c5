"""How the hosts of an environment differ from what its inventory says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ops import package_lock
from ops.ansible import Change, run_playbook
from ops.deployment import releases
from ops.environment import Environment
from ops.errors import Failure
from ops.packages import installed


def of_hosts(environment: Environment) -> list[Change]:
    """What site.yml would change. Raises Failure if the check itself fails."""
    try:
        return run_playbook(environment, "site", check=True)
    except Failure as failure:
        raise Failure(
            f"The check for changes failed: {failure.message}",
            "A new host cannot be checked before it has its first packages: check the inventory, then add --yes. If a "
            "host is dead, deploy to the others only: ./inv deploy --no-provision --limit=HOST,...",
            failure.code,
        ) from failure


def of_packages(environment: Environment) -> Iterator[Change]:
    """Packages whose version differs from the lock's."""
    locked = package_lock.read(environment)
    if locked is not None:
        for change in installed.changes(installed.ask(environment), locked.versions):
            for host in change.hosts:
                yield Change(host, "packages", "Version", f"{change.package} {change.before}, locked: {change.after}")


def of_releases(environment: Environment) -> Iterator[Change]:
    """Hosts that run another release than most do."""
    found = releases.ask(environment, releases.hosts_of(environment))
    counted = Counter(host.current for host in found.values())
    most = max(counted, key=counted.__getitem__, default="")
    for host in found.values():
        if host.current != most:
            yield Change(host.host, "release", "Current", f"{host.current or 'none'}; most have {most or 'none'}")
