"""The inventory that a lab works from: a copy of the environment's, with the addresses and keys of this lab.

It is written again at every use, so that it follows the inventory that it is made from. Its files are the only record
of the block of addresses that a lab has while it is down.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from ops import secrets
from ops.environment import Environment, Kind
from ops.errors import Exit, Failure
from ops.inventories import KNOWN_HOSTS_FILE, LAB_ENVIRONMENT, PACKAGES_FILE, VAULT_FILE
from ops.lab.cache import Cache
from ops.lab.host import LabHost
from ops.lab.network import Block, Wiring
from ops.lab.place import LABS, Place
from ops.paths import INVENTORIES

LAB_VARIABLES = "group_vars/all/zz_lab.yml"  # read last of its folder, so that it decides
FITTING = "zz_lab.yml"


def block_of(environment: Environment) -> Block:
    """The one /24 network of all hosts of an inventory.

    Raises Failure if there is more than one, or if a host's address is not an IPv4 address.
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
            f"A lab has one block of 256 addresses, but the hosts of '{environment.name}' have addresses in "
            f"{len(blocks)}: {', '.join(map(str, sorted(blocks)))}.",
            "Use an environment with one data centre.",
            Exit.BAD_CONFIGURATION,
        )
    return blocks.pop()


def sealed_wiring(environment: Environment) -> Wiring:
    """The networks of an inventory, unchanged, for its rehearsal.

    Raises Failure if a host's address is in none of them.
    """
    hosts = list(environment.hosts.values())
    taken = {host.address for host in hosts} | {str(host.variables["public_address"]) for host in hosts}
    wiring = Wiring.of_sites(environment.variable("site_subnets"), environment.variable("operator_subnets"), taken)
    for address in sorted(taken):
        wiring.subnet_of(address)
    return wiring


def recorded_block(place: Place) -> Block | None:
    """The block that the lab has been given, whether it is up or down; None without one, as for a rehearsal."""
    block = _recorded(place).get("lab_block")
    return ipaddress.IPv4Network(block) if block else None


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
    """`text` with every address of one block replaced by that with the same last number in another block."""
    old, new = (str(block.network_address).rpartition(".")[0] for block in (source, target))
    return re.sub(rf"(?<![\d.]){re.escape(old)}\.(?=\d)", f"{new}.", text)


def write(place: Place, source: Environment, wiring: Wiring, hosts: Iterable[LabHost]) -> Path:
    """Writes the lab's inventory from that of `source`; does not touch unchanged files. Returns its directory."""
    secrets.ensure_lab()  # the lab's vault is copied like every other file
    wanted: dict[str, str] = {}
    for path in sorted(source.inventory.rglob("*")):
        if path.is_file() and path.name != KNOWN_HOSTS_FILE and path != source.inventory / PACKAGES_FILE:
            wanted[path.relative_to(source.inventory).as_posix()] = path.read_text()
    if wiring.sealed:
        # A rehearsal never has the secrets of the real hosts.
        wanted[VAULT_FILE] = secrets.made_up(place.inventory / VAULT_FILE, source)
        wanted |= {name: yaml.safe_dump(values) for name, values in _fitting(source).items()}
    else:
        own = block_of(source)
        wanted = {name: relocated(text, own, wiring.first) for name, text in wanted.items()}
    wanted[LAB_VARIABLES] = yaml.safe_dump(_variables(place, source, wiring), sort_keys=False)
    wanted[KNOWN_HOSTS_FILE] = "".join(
        f"{host.name},{host.address} {host.public_key}\n" for host in hosts if host.exists()
    )
    for path in sorted(place.inventory.rglob("*")):
        # The lock of packages is the lab's own: it names a snapshot on one of its hosts.
        if path.is_file() and path.relative_to(place.inventory).as_posix() not in {*wanted, PACKAGES_FILE}:
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


def _fitting(source: Environment) -> dict[str, dict[str, object]]:
    """Variables that make real hosts small enough to share one machine: file -> variables.

    Memory and disk sizes are those of the environment `lab`; disks of the storage become directories.
    """
    found: dict[str, dict[str, object]] = {}
    for group in sorted(path.name for path in (INVENTORIES / LAB_ENVIRONMENT / "group_vars").iterdir()):
        if group != "all" and source.members(group) and not group.startswith("dc"):
            values: dict[str, object] = {}
            for path in sorted((INVENTORIES / LAB_ENVIRONMENT / "group_vars" / group).glob("*.yml")):
                values |= yaml.safe_load(path.read_text())
            found[f"group_vars/{group}/{FITTING}"] = values
    for host in source.group("storage"):
        names = [device["name"] for device in host.variables.get("storage_devices", [{"name": "d1"}])]
        found[f"group_vars/storage/{FITTING}"] |= {
            "storage_devices": [{"name": name} for name in names],
            "lab_mounts": [f"/srv/node/{name}" for name in names],
        }
    return found


def _variables(place: Place, source: Environment, wiring: Wiring) -> dict[str, object]:
    archives = Cache(place, wiring.gateway, wiring.sealed).mirror
    own = _sealed_variables() if wiring.sealed else {"lab_block": str(wiring.first)}
    return {
        "lab_name": place.name,
        "lab_environment": source.name,
        "lab_gateway": wiring.gateway,
        **own,
        "ansible_user": "ops",
        "ansible_ssh_private_key_file": str(place.key),
        "site_debian_mirror": archives.main,
        "site_debian_security_mirror": archives.security,
    }


def _sealed_variables() -> dict[str, object]:
    """Variables of a rehearsal instead of those that would reach outside, or that need the real site."""
    key = secrets.read(secrets.ensure_lab())["vault_release_signing_public_key"]
    return {
        # Ignore the user's own ssh settings: they may name an open connection to the real host, or a route to it.
        "ansible_ssh_extra_args": "-F none",
        "base_ops_keys": ["{{ lookup('ansible.builtin.file', ansible_ssh_private_key_file ~ '.pub') }}"],
        "deploy_notify": [],
        "pki_public_source": "internal",
        "release_signers": [{"principal": LAB_ENVIRONMENT, "key": key}],
    }


def environment_of(place: Place, name: str = LAB_ENVIRONMENT) -> Environment:
    """The environment as this lab has it, with the lab's own addresses."""
    return Environment(name, place.inventory, Kind.LAB if name == LAB_ENVIRONMENT else Kind.REHEARSAL)
