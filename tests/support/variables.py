"""Ansible's variables as Ansible sees them, for tests: rendered, with role defaults, without running a playbook.

Expected values of tests come from here, so they are never a copy of what an inventory or a role says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


@cache
def _ansible() -> None:
    """Load Ansible with the repository's ansible.cfg: its plugins are found as in a playbook."""
    os.environ.setdefault("ANSIBLE_CONFIG", str(ROOT / "ansible.cfg"))
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader()


class Inventory:
    """An inventory with the defaults of some roles; every value is rendered when it is read."""

    def __init__(self, hosts_file: Path, roles: Sequence[Path], overrides: Mapping[str, Any] | None = None) -> None:
        """Read `hosts_file`, and defaults and vars of `roles`; `overrides` win over all of them."""
        _ansible()
        from ansible.inventory.manager import InventoryManager
        from ansible.parsing.dataloader import DataLoader
        from ansible.vars.hostvars import HostVars
        from ansible.vars.manager import VariableManager

        self.loader = DataLoader()
        self._inventory = InventoryManager(loader=self.loader, sources=[str(hosts_file)])
        self._manager = VariableManager(loader=self.loader, inventory=self._inventory)
        HostVars(self._inventory, self._manager, self.loader)  # makes itself known to the manager
        self._manager.extra_vars.update(_trusted(dict(overrides or {})))  # so that `hostvars` has them too
        self._defaults = self._load(roles, "defaults")
        self._role_vars = self._load(roles, "vars")

    def _load(self, roles: Sequence[Path], folder: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for path in (role / folder / "main.yml" for role in roles):
            if path.is_file():
                values.update(self.loader.load_from_file(str(path), trusted_as_template=True) or {})
        return values

    @property
    def hosts(self) -> list[str]:
        """The names of all hosts."""
        return [host.name for host in self._inventory.get_hosts("all")]

    def group(self, name: str) -> list[str]:
        """The names of a group's hosts; empty if the inventory has no such group."""
        return [host.name for host in self._inventory.get_hosts(name)] if name in self._inventory.groups else []

    def unrendered(self, host: str) -> dict[str, Any]:
        """All variables of a host as written, with `groups`, `hostvars` and the like."""
        found = self._manager.get_vars(host=self._inventory.get_host(host))
        return {**self._defaults, **found, **self._role_vars}

    def variables(self, host: str) -> Rendered:
        """The variables of a host."""
        return Rendered(self, host)


class Rendered(Mapping[str, Any]):
    """The variables of one host; reading one renders it and raises if it needs an undefined one."""

    def __init__(self, inventory: Inventory, host: str, further: Mapping[str, Any] | None = None) -> None:
        from ansible.template import Templar

        self._inventory = inventory
        self._host = host
        self._values = {**inventory.unrendered(host), **_trusted(dict(further or {}))}
        self._templar = Templar(loader=inventory.loader, variables=self._values)

    def __getitem__(self, name: str) -> Any:
        return self._templar.template(self._values[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def with_variables(self, further: Mapping[str, Any]) -> Rendered:
        """The same with further variables: of a task, of a loop."""
        return Rendered(self._inventory, self._host, further)

    def render(self, value: Any) -> Any:
        """A value of a task as Ansible would hand it to the module."""
        return self._templar.template(_trusted(value))

    def render_file(self, path: Path) -> str:
        """The text that the template module would write."""
        from ansible.template import generate_ansible_template_vars

        values = {**self._values, **generate_ansible_template_vars(path.name, str(path))}
        templar = self._templar.copy_with_new_env(searchpath=[str(path.parent)], available_variables=values)
        # The defaults of the template module.
        overrides = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}
        return str(templar.template(_trusted(path.read_text()), escape_backslashes=False, overrides=overrides))


def _trusted(value: Any) -> Any:
    """A value that another YAML parser than Ansible's has read, as one that may hold templates."""
    from ansible.template import trust_as_template

    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: _trusted(below) for key, below in value.items()}
    return [_trusted(below) for below in value] if isinstance(value, list) else value


def role_tasks(role: Path) -> list[dict[str, Any]]:
    """All tasks and handlers of a role, those in blocks too, as written."""
    found: list[dict[str, Any]] = []

    def walk(tasks: Sequence[Mapping[str, Any]]) -> None:
        for task in tasks:
            found.append(dict(task))
            for section in ("block", "rescue", "always"):
                walk(task.get(section) or [])

    for path in sorted([*role.glob("tasks/*.yml"), *role.glob("handlers/*.yml")]):
        walk(yaml.safe_load(path.read_text()) or [])
    return found
