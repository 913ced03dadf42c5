"""The first play of site.yml, which rejects an inventory before any host is touched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from ops import ansible
from ops.paths import INVENTORIES, PLAYBOOKS, tool
from tests.support.commands import run


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """The lab's inventory without its vault, in a copy that a test may change."""
    target = tmp_path / "inventories" / "lab"
    shutil.copytree(INVENTORIES / "lab", target, ignore=shutil.ignore_patterns("vault.yml"))
    shutil.copy(INVENTORIES / "schema.yml", target.parent)
    return target


def checked(inventory: Path) -> tuple[int, str]:
    """The exit code of the play and what it said, in one line."""
    first = yaml.safe_load((PLAYBOOKS / "site.yml").read_text())[0]
    playbook = inventory.parents[1] / "playbooks" / "first.yml"
    playbook.parent.mkdir()
    playbook.write_text(yaml.safe_dump([first]))
    command = [tool("ansible-playbook"), "-i", str(inventory / "hosts.yml")]
    command += ["--extra-vars", "vault_pki_ca_key=made-up", str(playbook)]
    said = run(*command, seconds=120, env={**ansible.settings(), "PATH": os.environ["PATH"]})
    return said.returncode, " ".join(said.stdout.split())


def test_a_good_one_passes(inventory: Path) -> None:
    code, said = checked(inventory)
    assert code == 0, said


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ("storage: {hosts: {data1: , data2: }}", "storage has 2 hosts in dc1"),
        ("database: {hosts: {data1: , data2: }}", "database has 2 hosts in dc1"),
    ],
)
def test_a_group_of_a_size_that_cannot_work_is_rejected(inventory: Path, group: str, says: str) -> None:
    hosts = inventory / "hosts.yml"
    text = hosts.read_text()
    name = group.partition(":")[0]
    changed = text.replace(f"{name}: {{hosts: {{data1: , data2: , data3: }}}}", group)
    assert changed != text
    hosts.write_text(changed)
    code, said = checked(inventory)
    assert code != 0
    assert says in said
