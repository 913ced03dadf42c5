"""The names of environments, and of the files in their inventories."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

from ops.errors import Exit, Failure
from ops.paths import INVENTORIES

LAB_ENVIRONMENT = "lab"
HOSTS_FILE = "hosts.yml"
VAULT_FILE = "group_vars/all/vault.yml"
PACKAGES_FILE = "group_vars/all/packages.yml"
KNOWN_HOSTS_FILE = "known_hosts"


def environment_names() -> list[str]:
    """The environments of this checkout."""
    return sorted(path.parent.name for path in INVENTORIES.glob(f"*/{HOSTS_FILE}"))


@cache
def debian_suite() -> str:
    """The release of Debian that all hosts have, such as `trixie`."""
    return str(yaml.safe_load((INVENTORIES / "topology.yml").read_text())["site_debian_suite"])


def inventory_of(name: str) -> Path:
    """The folder of an environment's inventory in this checkout. Raises Failure if there is no such environment."""
    inventory = INVENTORIES / name
    if not (inventory / HOSTS_FILE).is_file():
        raise Failure(
            f"There is no environment '{name}'.",
            f"Environments are the folders of inventories/: {', '.join(environment_names())}.",
            Exit.USAGE,
        )
    return inventory
