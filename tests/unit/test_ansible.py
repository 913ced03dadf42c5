"""How playbooks are run."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ops import ansible, package_lock, playbook_log, secrets
from ops.environment import Environment, Kind
from ops.errors import Failure
from ops.package_lock import PackageLock
from ops.paths import ROOT, tool
from ops.playbook_display import Display
from ops.tasks.declare import task
from tests.support.commands import run
from tests.support.waiting import until

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
    says = "No package matching 'acl' is available"
    environment = bare(tmp_path, monkeypatch, site=f'[{{name: Install, fail: {{msg: "{says}"}}}}]')
    with pytest.raises(Failure, match="No package matching") as caught:
        ansible.run_playbook(environment, "site")
    assert "--also" not in caught.value.hint, "without a lock it is no package of Debian's"
    package_lock.write(environment, PackageLock("20261125-0a1b2c3d", "key", {"bash": "1"}))
    with pytest.raises(Failure) as caught:
        ansible.run_playbook(environment, "site")
    assert "./inv packages.update --env=bare --also=acl." in caught.value.hint


def bare(folder: Path, monkeypatch: pytest.MonkeyPatch, **playbooks: str) -> Environment:
    """An environment of this machine alone, with these playbooks, whose logs are in the folder."""
    (folder / "hosts.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}\n")
    for name, tasks in playbooks.items():
        (folder / f"{name}.yml").write_text(f"- hosts: localhost\n  gather_facts: false\n  tasks: {tasks}\n")
    monkeypatch.setattr(ansible, "PLAYBOOKS", folder)
    monkeypatch.setattr(secrets, "ansible_arguments", lambda name: [])
    monkeypatch.setattr(playbook_log, "LOGS", folder / "logs")
    return Environment("bare", folder, Kind.REAL)


PLAY = """[
  {name: Write, copy: {content: "{{ secret }}", dest: "{{ playbook_dir }}/written"}, no_log: true},
  {name: Break, fail: {msg: broken}, when: breaks is defined},
]"""


def test_a_playbook_shows_what_it_changes_and_a_failure_names_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = bare(tmp_path, monkeypatch, site=PLAY)
    changed = [ansible.Change("localhost", "", "Write", "")]
    assert ansible.run_playbook(environment, "site", extra_vars={"secret": "Geheimnis"}) == changed
    with pytest.raises(Failure) as caught:
        ansible.run_playbook(environment, "site", extra_vars={"secret": "Geheimnis", "breaks": True})
    quiet = capfd.readouterr().err
    assert quiet.count("changed   localhost  Write\n") == 1
    assert "failed    localhost  Break: broken\n" in quiet
    assert "PLAY RECAP" not in quiet
    _, log = sorted((tmp_path / "logs").iterdir())
    assert caught.value.message == (
        "The playbook 'site' failed on the environment 'bare': broken (localhost, task 'Break'). "
        f"All that Ansible said: {log}"
    )
    said = log.read_text()
    assert "PLAY RECAP" in said
    assert re.search(r"slowest tasks of site:\n +[0-9.]+ s  \w+\n", said)
    assert "Geheimnis" not in said + quiet


def test_verbose_shows_what_ansible_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = bare(tmp_path, monkeypatch, site=PLAY)

    @task()
    def play(_context: object, env: str = "bare") -> None:
        ansible.run_playbook(environment, "site", extra_vars={"secret": "Geheimnis"})

    play.body(None, verbose=True)
    said = capfd.readouterr().err
    assert "TASK [Write] ***" in said
    assert "PLAY RECAP" in said
    assert not re.search("^changed   localhost", said, re.MULTILINE)
    play.body(None)
    assert "PLAY RECAP" not in capfd.readouterr().err


def test_a_playbook_that_ansible_refuses_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = bare(tmp_path, monkeypatch, site="[{name: Unknown, no_such_module: {}}]")
    with pytest.raises(Failure, match="no_such_module"):
        ansible.run_playbook(environment, "site")


class Watched:
    """A command in a playbook's place: what it wrote down, and how long it was waited for."""

    def __init__(self, folder: Path, script: str, display: Display) -> None:
        self.began = time.monotonic()
        events, log = folder / "events", folder / "log"
        log.touch()
        command = ["sh", "-c", f"echo $$ >{folder}/pid; exec 3>>$LONGHAUL_EVENTS; {script}"]
        self.code, self.events = ansible._watch(Environment.of_checkout("lab"), command, events, log, display)
        self.seconds = time.monotonic() - self.began


def hidden() -> Display:
    return Display("site", Console(file=io.StringIO()))


PLAY_EVENT = '{"event": "play", "at": 0, "play": "P", "hosts": []}'


def test_a_process_that_keeps_the_output_open_is_not_waited_for(tmp_path: Path) -> None:
    """As SSH's connections do, which stay for a minute. The last events are not lost; half a line is none."""
    script = f"sleep 60 & echo $! >{tmp_path}/child; echo '{PLAY_EVENT}' >&3; printf '{{\"event' >&3; exit 3"
    try:
        watched = Watched(tmp_path, script, hidden())
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    assert watched.code == 3
    assert watched.events == [json.loads(PLAY_EVENT)]
    assert watched.seconds < 30


def test_a_playbook_that_is_interrupted_ends(tmp_path: Path) -> None:
    class Interrupted(Display):
        def take(self, event: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Watched(tmp_path, f"echo '{PLAY_EVENT}' >&3; exec sleep 60", Interrupted("site", Console(file=io.StringIO())))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


LONG = """
from pathlib import Path
from ops import ansible, playbook_log, secrets
from ops.environment import Environment, Kind
ansible.PLAYBOOKS = Path({folder!r})
playbook_log.LOGS = Path({folder!r})
secrets.ansible_arguments = lambda name: []
ansible.run_playbook(Environment("bare", Path({folder!r}), Kind.REAL), "long")
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


@pytest.mark.parametrize("mitogen", ["0", "1"])
def test_a_playbook_ends_with_the_process_that_runs_it(tmp_path: Path, mitogen: str) -> None:
    """However that ends: the lock, which it held, is free soon, and the next one would run beside the playbook."""
    (tmp_path / "hosts.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}\n")
    long = '[{name: Begin, command: {argv: [touch, "%s/began"]}}, {name: Sleep, command: {argv: [sleep, "30"]}}]'
    (tmp_path / "long.yml").write_text(f"- hosts: localhost\n  gather_facts: false\n  tasks: {long % tmp_path}\n")
    marked = {**os.environ, "STARTED_FROM": str(tmp_path), ansible.MITOGEN_SWITCH: mitogen}
    process = subprocess.Popen([sys.executable, "-c", LONG.format(folder=str(tmp_path))], cwd=ROOT, env=marked)
    until((tmp_path / "began").exists, "the playbook to begin", 60)
    assert any("ansible-playbook" in command for command in started_from(tmp_path).values())
    process.kill()
    process.wait(10)
    try:
        until(lambda: not started_from(tmp_path), f"the end of {started_from(tmp_path)}", 10)
    finally:
        for number in started_from(tmp_path):
            os.kill(number, signal.SIGKILL)
