"""Fixtures of the roles' testinfra tests: the scenario's hosts, and the variables Ansible has for them.

`host` runs a test once for each host that the scenario's molecule.yml names, or for those in the module's list
`ROLE_HOSTS`; `hosts["lb1"]` is a certain one; `variables` is what Ansible knows about `host`, rendered, with the
defaults of the role under test: expected values come from there and are never copied.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

from ops.paths import PLAYBOOKS
from tests.support.variables import Inventory

SCENARIO = "MOLECULE_SCENARIO_DIRECTORY"


def scenario_hosts() -> list[str]:
    """The hosts that molecule.yml of the running scenario names."""
    configuration = yaml.safe_load((Path(os.environ[SCENARIO]) / "molecule.yml").read_text())
    return list(configuration["driver"]["hosts"])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that asks for `host` once per host."""
    if "host_name" in metafunc.fixturenames:
        names = getattr(metafunc.module, "ROLE_HOSTS", None) or scenario_hosts()
        metafunc.parametrize("host_name", names, scope="module")


@pytest.fixture(scope="session")
def inventory() -> Inventory:
    """The inventory of the scenario's lab, with the defaults of the role under test."""
    role = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
    return Inventory(inventory_file(), [role])


def inventory_file() -> Path:
    """hosts.yml of the scenario's lab."""
    return Path("/var/lib/longhaul/labs") / os.environ["LONGHAUL_LAB"] / "inventory" / "hosts.yml"


class Hosts(Mapping[str, Host]):
    """Connections to the scenario's hosts by name, made when first used; commands run as root."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._connections: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        if name not in self._connections:
            self._connections[name] = testinfra.get_host(
                f"ssh://{name}", ssh_config=self._ssh_config(), sudo=True, controlpersist=60
            )
        return self._connections[name]

    def __iter__(self) -> Iterator[str]:
        return iter(scenario_hosts())

    def __len__(self) -> int:
        return len(scenario_hosts())

    def _ssh_config(self) -> str:
        # Written beside the lab's inventory: the settings and the lab end together.
        path = inventory_file().parent.parent / "ssh_config"
        if not path.is_file():
            blocks = []
            for name in self:
                known = self._inventory.variables(name)
                blocks.append(
                    f"Host {name}\n"
                    f"  HostName {known['ansible_host']}\n"
                    f"  User {known['ansible_user']}\n"
                    f"  IdentityFile {known['ansible_ssh_private_key_file']}\n"
                    f"  UserKnownHostsFile {inventory_file().parent / 'known_hosts'}\n"
                    "  StrictHostKeyChecking yes\n"
                    f"  ControlPath {path.parent}/%C\n"
                )
            path.write_text("".join(blocks))
        return str(path)


@pytest.fixture(scope="session")
def hosts(inventory: Inventory) -> Hosts:
    """All hosts of the scenario by name."""
    return Hosts(inventory)


@pytest.fixture
def host(hosts: Hosts, host_name: str) -> Host:
    """The host that the test runs for."""
    return hosts[host_name]


@pytest.fixture
def variables(inventory: Inventory, host_name: str) -> Mapping[str, Any]:
    """Ansible's variables of `host`, rendered when read."""
    return inventory.variables(host_name)


class Ansible:
    """Ansible on the scenario's hosts, as a test needs it besides the steps of molecule."""

    def converge(self, *, check: bool = True, limit: str = "all", **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run the scenario's converge.yml again with other variables, on some of its hosts if that is enough."""
        return self._play(Path(os.environ[SCENARIO]) / "converge.yml", limit, variables, check=check)

    def prepare(self, limit: str, **variables: Any) -> None:
        """Run the scenario's prepare.yml again with other variables, on some of its hosts."""
        self._play(Path(os.environ[SCENARIO]) / "prepare.yml", limit, variables, check=True)

    def play(self, name: str, limit: str, *, check: bool = True, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the repository on some of the scenario's hosts, with other variables."""
        return self._play(PLAYBOOKS / f"{name}.yml", limit, variables, check=check)

    def _play(
        self, playbook: Path, limit: str, variables: dict[str, Any], *, check: bool
    ) -> subprocess.CompletedProcess[str]:
        command = ["ansible-playbook", "--limit", limit, "--extra-vars", json.dumps(variables), str(playbook)]
        return self._run(command, check=check)

    def module(self, host_name: str, name: str, *, check: bool = True, **arguments: Any) -> str:
        """Run one module on a host as root; returns what ansible printed."""
        command = ["ansible", host_name, "--become", "--module-name", name, "--args", json.dumps(arguments)]
        answer = self._run(command, check=check)
        return answer.stdout + answer.stderr

    def _run(self, command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        command[1:1] = ["--inventory", str(inventory_file())]
        plain = {**os.environ, "ANSIBLE_FORCE_COLOR": "0"}  # molecule asks for colours, which no test wants to read
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
        assert not check or answer.returncode == 0, answer.stdout + answer.stderr
        return answer


@pytest.fixture(scope="session")
def ansible() -> Ansible:
    """Ansible on the scenario's hosts."""
    return Ansible()
