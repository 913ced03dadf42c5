"""How playbooks are run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ops import ansible, secrets
from ops.environment import Environment
from ops.errors import Failure
from ops.packages import lock
from ops.packages.lock import Lock
from ops.paths import tool
from tests.support.commands import run

PROCESSORS = "import os; print(sorted(os.sched_getaffinity(0)))"
PLAYBOOK = f"""
- hosts: localhost
  gather_facts: false
  tasks:
    - command: {{argv: ["{sys.executable}", "-c", "{PROCESSORS}"]}}
      register: processors
    - debug: {{msg: "on {{{{ processors.stdout }}}}"}}
"""


def test_what_a_playbook_starts_runs_on_all_processors(tmp_path: Path) -> None:
    """A lab's hosts among it: mitogen alone would leave them one of two."""
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(PLAYBOOK)
    command = (tool("ansible-playbook"), "-i", "localhost,", "-c", "local", str(playbook))
    done = run(*command, seconds=120, env=ansible.settings())
    assert done.returncode == 0, done.stdout
    assert f"on {sorted(os.sched_getaffinity(0))}" in done.stdout


def test_a_package_that_no_host_had_is_named_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "group_vars" / "all").mkdir(parents=True)
    (tmp_path / "hosts.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}\n")
    says = "No package matching 'acl' is available"
    (tmp_path / "site.yml").write_text(
        f'- hosts: localhost\n  gather_facts: false\n  tasks: [{{name: Install, fail: {{msg: "{says}"}}}}]\n'
    )
    monkeypatch.setattr(ansible, "PLAYBOOKS", tmp_path)
    monkeypatch.setattr(secrets, "ansible_arguments", lambda name: [])
    environment = Environment("bare", tmp_path)
    with pytest.raises(Failure, match="No package matching") as caught:
        ansible.run_playbook(environment, "site")
    assert "--also" not in caught.value.hint, "without a lock it is no package of Debian's"
    lock.write(environment, Lock("20261125-0a1b2c3d", "key", {"bash": "1"}))
    with pytest.raises(Failure) as caught:
        ansible.run_playbook(environment, "site")
    assert "./inv packages.update --env=bare --also=acl." in caught.value.hint
