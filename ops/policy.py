"""The values of inventories/policy.yml, and the copy of them that the application carries.

The application takes its defaults from the copy, so that it runs with production's numbers wherever it runs.
"""

from __future__ import annotations

from pathlib import Path

from ops.paths import APP, INVENTORIES

POLICY = INVENTORIES / "policy.yml"
COPY = APP / "longhaul" / "policy.toml"

_HEAD = "# Generated from inventories/policy.yml by ./inv docs.build: change a value there.\n"


def values(policy: Path = POLICY) -> dict[str, int | float]:
    """Every variable of the policy, with expressions computed as Ansible computes them."""
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar

    loader = DataLoader()
    written = loader.load_from_file(str(policy.resolve()), trusted_as_template=True)
    templar = Templar(loader=loader, variables=written)
    return {name: templar.template(value) for name, value in written.items()}


def copy_for_app(policy: Path = POLICY) -> str:
    """The text of the application's copy, in TOML."""
    return _HEAD + "".join(f"{name} = {value}\n" for name, value in values(policy).items())
