"""How playbooks are run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ops import ansible
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
