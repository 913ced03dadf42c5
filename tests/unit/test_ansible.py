"""How playbooks are run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ops import ansible, secrets
from ops.environment import Environment
from ops.errors import Failure
from ops.packages import lock
from ops.packages.lock import Lock
from ops.paths import ROOT, tool
from tests.support.commands import run

PROCESSORS = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
PLAYBOOK = f"""
- hosts: localhost
  gather_facts: false
  tasks:
    - command: {{argv: {json.dumps(PROCESSORS)}}}
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


LONG = """
from pathlib import Path
from ops import ansible, secrets
from ops.environment import Environment
ansible.PLAYBOOKS = Path({folder!r})
secrets.ansible_arguments = lambda name: []
ansible.run_playbook(Environment("bare", Path({folder!r})), "long")
"""
"""A process that runs a playbook, as a deployment does."""


def started_from(folder: Path) -> dict[int, str]:
    """The processes that run with a variable which names the folder: number -> command line."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"STARTED_FROM={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # gone meanwhile, or not ours
            continue
    return found


def ansible_of(folder: Path) -> list[str]:
    """Those of them that go on to a next task. What a host is just doing comes to its end."""
    return [command for command in started_from(folder).values() if not command.startswith("sleep")]


def within(seconds: float, so: Callable[[], bool]) -> bool:
    """Whether it becomes so within that time."""
    deadline = time.monotonic() + seconds
    while not so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("mitogen", ["0", "1"])
def test_a_playbook_ends_with_the_process_that_runs_it(tmp_path: Path, mitogen: str) -> None:
    """However that ends: the lock, which it held, is free soon, and the next one would run beside the playbook."""
    (tmp_path / "hosts.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}\n")
    long = '[{name: Begin, command: {argv: [touch, "%s/began"]}}, {name: Sleep, command: {argv: [sleep, "30"]}}]'
    (tmp_path / "long.yml").write_text(f"- hosts: localhost\n  gather_facts: false\n  tasks: {long % tmp_path}\n")
    marked = {**os.environ, "STARTED_FROM": str(tmp_path), ansible.MITOGEN_SWITCH: mitogen}
    process = subprocess.Popen([sys.executable, "-c", LONG.format(folder=str(tmp_path))], cwd=ROOT, env=marked)
    assert within(60, (tmp_path / "began").exists)
    assert any("ansible-playbook" in command for command in started_from(tmp_path).values())
    process.kill()
    process.wait(10)
    try:
        assert within(10, lambda: not ansible_of(tmp_path)), ansible_of(tmp_path)
    finally:
        for number in started_from(tmp_path):
            os.kill(number, signal.SIGKILL)
