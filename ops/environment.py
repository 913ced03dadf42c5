"""An environment: the hosts, groups and variables of one inventory, and connections to its hosts.

An environment is a value: it names an inventory and says whether its hosts are real, the lab's or a rehearsal's.
ops/where.py decides which inventory the name of an environment stands for: that of the checkout, of the lab or of a
rehearsal. Secrets are not read here: ops/secrets.py opens the vault when a task needs it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ops.errors import Exit, Failure
from ops.inventories import HOSTS_FILE, KNOWN_HOSTS_FILE, LAB_ENVIRONMENT, VAULT_FILE, inventory_of
from ops.paths import CACHE, INVENTORIES, ROOT, tool


class Kind(Enum):
    """What the hosts of an environment are."""

    REAL = "real"
    LAB = "lab"
    """Hosts of the local data centre."""
    REHEARSAL = "rehearsal"
    """Hosts of a lab that stand in for real ones, under their names and addresses."""


@dataclass(frozen=True)
class Host:
    """One host of an inventory; `variables` are as written there, templates unrendered."""

    name: str
    groups: frozenset[str]
    variables: Mapping[str, Any]

    @property
    def address(self) -> str:
        """The address that SSH connects to."""
        return str(self.variables.get("ansible_host", self.name))

    @property
    def datacentre(self) -> str:
        """The data centre that it stands in."""
        return str(self.variables.get("site_datacentre", ""))


@dataclass(frozen=True)
class Environment:
    """An environment: its name, the folder of its inventory, and the kind of its hosts."""

    name: str
    inventory: Path
    kind: Kind

    @classmethod
    def of_checkout(cls, name: str) -> Environment:
        """The environment as this checkout has it, whether or not there is a lab or a rehearsal of it.

        Raises Failure if there is none of that name.
        """
        return cls(name, inventory_of(name), Kind.LAB if name == LAB_ENVIRONMENT else Kind.REAL)

    @property
    def is_lab(self) -> bool:
        """Whether the hosts are those of the local data centre."""
        return self.kind is Kind.LAB

    @property
    def is_rehearsal(self) -> bool:
        """Whether the hosts are those of a lab that stand in for the environment's real ones."""
        return self.kind is Kind.REHEARSAL

    @property
    def is_real(self) -> bool:
        """Whether the hosts are real: neither the lab's nor those of a rehearsal."""
        return self.kind is Kind.REAL

    @property
    def vault(self) -> Path:
        """The file with the secrets. The labs of a checkout share one; a rehearsal has its own, made up for it."""
        return (INVENTORIES / LAB_ENVIRONMENT if self.is_lab else self.inventory) / VAULT_FILE

    @property
    def ssh_sockets(self) -> Path | None:
        """The folder of SSH's open connections in a rehearsal; None for the user's own. A rehearsal must not share it:
        SSH finds an open connection by the host's address, and the rehearsed hosts have those of the real ones.
        """
        return self.inventory.parent / "cp" if self.is_rehearsal else None

    @property
    def known_hosts(self) -> Path:
        """The file with the only host keys that SSH accepts."""
        return self.inventory / KNOWN_HOSTS_FILE

    @cached_property
    def _listing(self) -> dict[str, Any]:
        return _listing(self.inventory)

    @cached_property
    def _order(self) -> list[str]:
        """Names of all hosts as hosts.yml lists them: ansible-inventory sorts them, people do not."""
        return list(yaml.safe_load((self.inventory / HOSTS_FILE).read_text())["all"]["hosts"])

    @cached_property
    def hosts(self) -> dict[str, Host]:
        """All hosts by name, in the inventory's order."""
        variables = self._listing["_meta"]["hostvars"]
        groups = {group: set(self.members(group)) for group in self._groups()}
        return {
            name: Host(
                name,
                frozenset(group for group, members in groups.items() if name in members),
                variables.get(name, {}),
            )
            for name in self.members("all")
        }

    def _groups(self) -> list[str]:
        return [group for group in self._listing if group not in {"_meta", "all"}]

    def members(self, group: str) -> list[str]:
        """Names of the hosts of a group and of its child groups, in the inventory's order."""

        def walk(name: str) -> Iterator[str]:
            entry = self._listing.get(name, {})
            for child in entry.get("children", []):
                yield from walk(child)
            yield from entry.get("hosts", [])

        members = set(walk(group))
        return [name for name in self._order if name in members]

    def group(self, name: str) -> list[Host]:
        """The hosts of a group."""
        return [self.hosts[member] for member in self.members(name)]

    def host(self, name: str) -> Host:
        """One host by name; raises Failure with the names that exist."""
        try:
            return self.hosts[name]
        except KeyError:
            raise Failure(
                f"There is no host '{name}' in the environment '{self.name}'.",
                f"Its hosts: {', '.join(self.hosts)}.",
                Exit.USAGE,
            ) from None

    @property
    def first_datacentre(self) -> str:
        """The data centre that users are sent to, and whose etcd all operators share."""
        return self.group("database")[0].datacentre

    def variable(self, name: str) -> Any:
        """A variable that is the same for all hosts, as written in the inventory.

        Raises Failure if no host has it.
        """
        for host in self.hosts.values():
            if name in host.variables:
                return host.variables[name]
        raise Failure(
            f"The inventory of '{self.name}' does not set {name}.",
            f"Set it in inventories/{self.name}/group_vars/all/main.yml.",
            Exit.BAD_CONFIGURATION,
        )

    def connection(self, host: Host | str) -> Any:
        """A Fabric connection to a host: key authentication, and only host keys that the inventory knows."""
        import fabric
        import paramiko

        if not self.known_hosts.is_file():
            raise Failure(
                f"No host keys are known for the environment '{self.name}' ({self.known_hosts} is missing).",
                f"Run for each of its hosts: ./inv host.bootstrap HOST --env={self.name}",
                Exit.BAD_CONFIGURATION,
            )
        target = self.host(host) if isinstance(host, str) else host
        key = target.variables.get("ansible_ssh_private_key_file")
        configuration = fabric.Config(
            overrides={"load_ssh_configs": False, "connect_timeout": 10, "run": {"in_stream": False}}
        )
        connection = fabric.Connection(
            target.address,
            user=target.variables.get("ansible_user", "ops"),
            port=int(target.variables.get("ansible_port", 22)),
            config=configuration,
            # If the inventory names no key, the user's own keys are tried. Fabric needs [] here, not None.
            connect_kwargs={"key_filename": key or [], "look_for_keys": not key, "allow_agent": not key},
        )
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        connection.client.load_host_keys(str(self.known_hosts))
        return connection

    def ssh_options(self) -> list[str]:
        """Options of the ssh command that accept exactly the inventory's host keys."""
        # ssh splits the value into words (double quotes and backslashes keep one together) and expands its %.
        path = json.dumps(str(self.known_hosts).replace("%", "%%"), ensure_ascii=False)
        return [
            "-o",
            f"UserKnownHostsFile={path}",
            "-o",
            "GlobalKnownHostsFile=/dev/null",
            "-o",
            "StrictHostKeyChecking=yes",
        ]


def _listing(inventory: Path) -> dict[str, Any]:
    files = sorted(path for path in inventory.rglob("*") if path.is_file() and path.suffix in {".yml", ".yaml"})
    readable = [path for path in files if path.relative_to(inventory).as_posix() != VAULT_FILE]
    digest = hashlib.sha256()
    for path in readable:
        digest.update(f"{path.relative_to(inventory)}\0".encode())
        digest.update(path.read_bytes())
    cached = CACHE / "environments" / f"{digest.hexdigest()}.json"
    if cached.is_file():
        listing: dict[str, Any] = json.loads(cached.read_text())
        return listing
    listing = _ask_ansible(inventory, readable)
    cached.parent.mkdir(parents=True, exist_ok=True)
    temporary = cached.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(listing))
    temporary.replace(cached)
    return listing


def _ask_ansible(inventory: Path, files: list[Path]) -> dict[str, Any]:
    """What ansible-inventory says, asked without the vault so that no password is needed and no secret is cached."""
    with tempfile.TemporaryDirectory(prefix="longhaul-inventory-") as name:
        for path in files:
            target = Path(name) / path.relative_to(inventory)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        answer = subprocess.run(
            [tool("ansible-inventory"), "-i", f"{name}/{HOSTS_FILE}", "--list"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if answer.returncode != 0:
        raise Failure(
            f"ansible-inventory cannot read {inventory}:\n{answer.stderr.strip()}",
            "Correct the file that the message names.",
            Exit.BAD_CONFIGURATION,
        )
    result: dict[str, Any] = json.loads(answer.stdout)
    return result
