"""The inventory that a lab works from: a copy of the environment's, with the addresses and keys of this lab.

Written anew whenever somebody asks for it, so that it follows the inventory it is made from. Its files are the only
record of which block belongs to a lab that is down.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from ops.environment import LAB_ENVIRONMENT, Environment
from ops.errors import Exit, Failure
from ops.lab import network
from ops.lab.cache import Cache
from ops.lab.host import Host
from ops.lab.network import Block
from ops.lab.place import LABS, Place
from ops.packages import lock as package_lock
from ops.paths import INVENTORIES

LAB_VARIABLES = "group_vars/all/zz_lab.yml"  # read last of its folder, so that it decides
KNOWN_HOSTS = "known_hosts"


def block_of(environment: Environment) -> Block:
    """The one /24 that all hosts of an inventory stand in.

    Raises Failure if there are more of them, or addresses that are none.
    """
    try:
        blocks = {ipaddress.IPv4Network(f"{host.address}/24", strict=False) for host in environment.hosts.values()}
    except ValueError as error:
        raise Failure(
            f"The inventory of '{environment.name}' has a host without an IPv4 address: {error}",
            "Give every host an ansible_host in hosts.yml.",
            Exit.BAD_CONFIGURATION,
        ) from None
    if len(blocks) != 1:
        raise Failure(
            f"A lab has one block of 256 addresses, and the hosts of '{environment.name}' stand in "
            f"{len(blocks)}: {', '.join(map(str, sorted(blocks)))}.",
            "Use an environment with one data centre.",
            Exit.BAD_CONFIGURATION,
        )
    return blocks.pop()


def recorded_block(place: Place) -> Block | None:
    """The block that the lab has been given, be it up or down; None if it has none yet."""
    recorded = _recorded(place)
    return ipaddress.IPv4Network(recorded["lab_block"]) if recorded else None


def recorded_environment(place: Place) -> str | None:
    """The name of the environment that the lab is made from; None if there is no such lab."""
    recorded = _recorded(place)
    return recorded["lab_environment"] if recorded else None


def _recorded(place: Place) -> dict[str, str]:
    path = place.inventory / LAB_VARIABLES
    return yaml.safe_load(path.read_text()) if path.is_file() else {}


def recorded_blocks(but: Place) -> dict[Block, str]:
    """The blocks of all labs of this machine but one, and the labs' names."""
    found = {}
    for directory in sorted(LABS.glob("*")):
        place = Place(directory.name)
        block = recorded_block(place)
        if block is not None and place != but:
            found[block] = f"the lab {place.name}"
    return found


def relocated(text: str, source: Block, target: Block) -> str:
    """`text` with every address of one block moved to the same place in another."""
    old, new = (str(block.network_address).rpartition(".")[0] for block in (source, target))
    return re.sub(rf"(?<![\d.]){re.escape(old)}\.(?=\d)", f"{new}.", text)


def write(place: Place, source: Environment, block: Block, hosts: Iterable[Host]) -> Path:
    """Writes the lab's inventory from that of `source`; what has not changed is not touched. Returns its directory."""
    if source.name == LAB_ENVIRONMENT:
        from ops import secrets

        secrets.ensure_lab()
    wanted: dict[str, str] = {}
    own = block_of(source)
    for path in sorted(source.inventory.rglob("*")):
        if path.is_file() and path.name != KNOWN_HOSTS and path != source.inventory / package_lock.FILE:
            wanted[path.relative_to(source.inventory).as_posix()] = relocated(path.read_text(), own, block)
    wanted[LAB_VARIABLES] = yaml.safe_dump(_variables(place, source, block), sort_keys=False)
    wanted[KNOWN_HOSTS] = "".join(f"{host.name},{host.address} {host.public_key}\n" for host in hosts if host.exists())
    for path in sorted(place.inventory.rglob("*")):
        # The lock of packages is the lab's own: it names a snapshot on one of its hosts.
        if path.is_file() and path.relative_to(place.inventory).as_posix() not in {*wanted, package_lock.FILE}:
            path.unlink()
    for name, text in wanted.items():
        target = place.inventory / name
        if not target.is_file() or target.read_text() != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = target.with_name(f".{target.name}.{os.getpid()}")
            scratch.touch(mode=0o600 if target.name == "vault.yml" else 0o644)
            scratch.write_text(text)
            scratch.replace(target)
    return place.inventory


def _variables(place: Place, source: Environment, block: Block) -> dict[str, object]:
    gateway = network.gateway(block)
    archives = Cache(place, gateway).mirror
    return {
        "lab_name": place.name,
        "lab_block": str(block),
        "lab_environment": source.name,
        "lab_gateway": gateway,
        "ansible_user": "ops",
        "ansible_ssh_private_key_file": str(place.key),
        "site_debian_mirror": archives.main,
        "site_debian_security_mirror": archives.security,
    }


def environment_of(place: Place) -> Environment:
    """The environment as this lab has it, with the lab's own addresses."""
    return Environment(LAB_ENVIRONMENT, place.inventory)


def source_of(name: str) -> Environment:
    """An environment as this checkout has it, with the addresses that stand there."""
    return Environment(name, INVENTORIES / name)
