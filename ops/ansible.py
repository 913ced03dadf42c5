"""Runs playbooks: the environment's inventory, its host keys, its vault, and mitogen unless it is switched off."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops import package_lock, secrets
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.paths import PLAYBOOKS, ROOT, tool

MITOGEN_SWITCH = "LONGHAUL_MITOGEN"
CHANGES_FILE = "LONGHAUL_CHANGES"
"""Environment variable with the file to which plugins/callback/changes.py writes."""

_NO_PACKAGE = re.compile(r"No package matching '([^']+)' is available")
"""What Ansible's module `apt` says of a name that no source of the host has."""


@dataclass(frozen=True)
class Change:
    """A task that changed something on a host, or would; `item` is what it changed, where the task says so.

    With `failure`, one that failed, and why.
    """

    host: str
    role: str
    task: str
    item: str
    failure: str = ""


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
    """Run `playbooks/<name>.yml`, its output going to standard error; return what it changed (a check: would).

    Raises Failure if any host failed.
    """
    command = command_line(environment, name, limit=limit, check=check)
    with tempfile.TemporaryDirectory(prefix="longhaul-playbook-") as directory:
        if extra_vars:
            # By file: arguments of a process are visible to every user of the machine.
            path = Path(directory) / "extra-vars.json"
            path.write_text(json.dumps(dict(extra_vars)))
            command += ["--extra-vars", f"@{path}"]
        changes = Path(directory) / "changes.jsonl"
        variables = {**os.environ, **settings(environment), CHANGES_FILE: str(changes)}
        answer = subprocess.run([*mortal(), *command], cwd=ROOT, env=variables, stdout=sys.stderr, check=False)
        found = [Change(**json.loads(line)) for line in changes.read_text().splitlines()] if changes.exists() else []
    if answer.returncode != 0:
        # A rescue fails last, and knows most.
        last = next((change for change in reversed(found) if change.failure), None)
        why = f": {last.failure} ({last.host}, task '{last.task}')" if last else "; the first 'fatal' above says why"
        raise Failure(
            f"The playbook '{name}' failed on the environment '{environment.name}'{why}.",
            _what_to_do(environment, last.failure if last else ""),
        )
    return [change for change in found if not change.failure]


def mortal() -> list[str]:
    """What a command begins with that ends with this process, however that ends: a playbook without the process that
    holds the lock would go on beside whoever takes the lock next. (Of this process it is the calling thread that
    counts: PR_SET_PDEATHSIG(2const). It waits for the command.)
    """
    if shutil.which("setpriv") is None:
        raise Failure("setpriv is missing.", "Install it: apt-get install util-linux.", Exit.UNAVAILABLE)
    return ["setpriv", "--pdeathsig", "TERM"]


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
