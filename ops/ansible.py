"""Runs playbooks: the environment's inventory, its host keys, its vault, and mitogen unless it is switched off."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops import package_lock, playbook_log, secrets
from ops.console import console, verbose
from ops.environment import Environment
from ops.errors import Failure
from ops.mortal import mortal
from ops.paths import PLAYBOOKS, ROOT, tool
from ops.playbook_display import Display
from ops.playbook_log import Follower

MITOGEN_SWITCH = "LONGHAUL_MITOGEN"
EVENTS_FILE = "LONGHAUL_EVENTS"
"""Environment variable with the file to which plugins/callback/events.py writes."""
POLL_SECONDS = 0.05

_ERROR = re.compile(r"(\[ERROR\]|ERROR!?):? ")
"""How a line begins by which Ansible refuses a playbook."""
_NO_PACKAGE = re.compile(r"No package matching '([^']+)' is available")
"""What Ansible's module `apt` says of a name that no source of the host has."""


@dataclass(frozen=True)
class Change:
    """A task that changed something on a host, or would; `item` is what it changed, where the task says so."""

    host: str
    role: str
    task: str
    item: str


def mitogen_enabled() -> bool:
    """Whether playbooks run with mitogen: always, unless LONGHAUL_MITOGEN=0."""
    return os.environ.get(MITOGEN_SWITCH, "1") != "0"


def settings(environment: Environment | None = None) -> dict[str, str]:
    """Environment variables under which Ansible's commands run, on top of ansible.cfg; those of an environment's hosts
    included.
    """
    variables = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    if mitogen_enabled():
        if importlib.util.find_spec("ansible_mitogen") is None:
            raise Failure("mitogen is not installed.", "Run `./inv`, which installs requirements.txt.")
        variables["ANSIBLE_STRATEGY"] = "mitogen_unpinned"
    if environment is not None and environment.ssh_sockets is not None:
        variables["ANSIBLE_SSH_CONTROL_PATH_DIR"] = str(environment.ssh_sockets)
    return variables


def run_playbook(
    environment: Environment,
    name: str,
    *,
    limit: str = "",
    extra_vars: Mapping[str, Any] | None = None,
    check: bool = False,
) -> list[Change]:
    """Run `playbooks/<name>.yml`, and show how far it is; return what it changed (a check: would).

    What Ansible says goes to a log file, and with --verbose to standard error too. Raises Failure if any host failed.
    """
    command = command_line(environment, name, limit=limit, check=check)
    log = playbook_log.create(f"{environment.name}-{name}")
    with tempfile.TemporaryDirectory(prefix="longhaul-playbook-") as directory:
        if extra_vars:
            # By file: arguments of a process are visible to every user of the machine.
            path = Path(directory) / "extra-vars.json"
            path.write_text(json.dumps(dict(extra_vars)))
            command += ["--extra-vars", f"@{path}"]
        display = Display(name, console, check=check, verbose=verbose.get())
        code, events = _watch(environment, mortal(command), Path(directory) / "events.jsonl", log, display)
    with log.open("a") as file:
        file.writelines(f"{line}\n" for line in display.slowest())
    display.show_summary(failed=code != 0)
    if code != 0:
        failed = _last_failure(events)
        raise Failure(
            f"The playbook '{name}' failed on the environment '{environment.name}': {_why(failed, log, code)}. "
            f"All that Ansible said: {_shown(log)}",
            _what_to_do(environment, failed["reason"] if failed else ""),
        )
    return [
        Change(event["host"], event["role"], event["task"], event["item"])
        for event in events
        if event["event"] == "changed"
    ]


def _watch(
    environment: Environment, command: list[str], path: Path, log: Path, display: Display
) -> tuple[int, list[dict[str, Any]]]:
    """Run a playbook that writes its events to `path`, and show them; its exit code, and all of them.

    Both files are read and not pipes: those end only when every process that Ansible has started has closed them, and
    SSH's connections stay for a minute.
    """
    path.touch()
    variables = {**os.environ, **settings(environment), EVENTS_FILE: str(path), "ANSIBLE_FORCE_COLOR": "0"}
    events: list[dict[str, Any]] = []
    with closing(Follower(path)) as news, closing(Follower(log)) as output, log.open("ab") as out, display:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=out, stderr=out)
        try:
            code = None
            while code is None:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(POLL_SECONDS)
                for line in output.lines():
                    display.take_output(line)
                for line in news.lines():
                    events.append(json.loads(line))
                    display.take(events[-1])
                display.tick()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return code, events


def _last_failure(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Of those that were not ignored. A rescue fails last, and knows most."""
    failed = [event for event in events if event["event"] == "failed" and event["outcome"] != "ignored"]
    return failed[-1] if failed else None


def _why(failed: dict[str, Any] | None, log: Path, code: int) -> str:
    if failed is not None:
        role = f"{failed['role']}: " if failed["role"] else ""
        return f"{failed['reason']} ({failed['host']}, task '{role}{failed['task']}')"
    errors = [line for line in log.read_text(errors="replace").splitlines() if _ERROR.match(line)]
    return errors[-1] if errors else f"it ended with {code}"


def _shown(log: Path) -> str:
    return str(log.relative_to(ROOT) if log.is_relative_to(ROOT) else log)


def _what_to_do(environment: Environment, failure: str) -> str:
    missing = _NO_PACKAGE.search(failure)
    if missing and package_lock.read(environment):
        return (
            f"The snapshot that the hosts install from has no '{missing[1]}', as no host had it. Add it: "
            f"./inv packages.update --env={environment.name} --also={missing[1]}. Then run the same command again."
        )
    return "Mend the cause and run the same command again: playbooks go on where they stopped."


def command_line(
    environment: Environment,
    name: str,
    *,
    limit: str = "",
    check: bool = False,
) -> list[str]:
    """The ansible-playbook command for a playbook of this repository."""
    command = [tool("ansible-playbook"), "-i", str(environment.inventory / "hosts.yml")]
    command += secrets.ansible_arguments(environment)
    if limit:
        command += ["--limit", limit]
    if check:
        command += ["--check", "--diff"]
    return [*command, str(PLAYBOOKS / f"{name}.yml")]
