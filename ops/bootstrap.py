"""First contact with a bare host: verifies the host's key, then makes the account `ops`, which everything else uses."""

from __future__ import annotations

import base64
import hashlib
import shlex
import subprocess
from pathlib import Path
from typing import Any

from ops import ansible
from ops.console import confirm, console
from ops.environment import Environment, Host
from ops.errors import Exit, Failure

PLAYBOOK = "bootstrap"
KEY_TYPE = "ssh-ed25519"
KEYSCAN_SECONDS = 10


def run(environment: Environment, host: Host, *, user: str, password: str | None, expected: str) -> None:
    """Check the host's key, record it, and run the playbook as `user`; then prove that `ops` can log in.

    Raises Failure if the key is not the one that is known or expected, or the playbook or the login fails.
    """
    know(environment.known_hosts, host, expected)
    login: dict[str, Any] = {"ansible_user": user, "ansible_ssh_common_args": shlex.join(environment.ssh_options())}
    if user == "root":
        login["ansible_become"] = False  # a bare host need not have sudo
    if password is not None:
        # Replaces the setting of ansible.cfg, which allows keys only. One connection must last for the whole play: the
        # role `base` forbids logins as root.
        arguments = "-o ControlMaster=auto -o ControlPersist=60s -o StrictHostKeyChecking=yes"
        login |= {"ansible_password": password, "ansible_ssh_args": arguments}
    ansible.run_playbook(environment, PLAYBOOK, limit=host.name, extra_vars=login)
    answer = environment.connection(host).run("sudo -n id -u", hide=True, warn=True)
    if answer.stdout.strip() != "0":
        raise Failure(
            f"{host.name} is set up, but 'ops' cannot become root there: {answer.stderr.strip()}",
            "Log in on its console and look at /etc/sudoers.d/longhaul.",
        )
    console.print(f"{host.name} is ready: ops logs in with its key and becomes root; {user} is not needed any more.")


def know(known_hosts: Path, host: Host, expected: str) -> None:
    """Make sure that `known_hosts` has the key that the host shows; ask the operator if no key is known or expected.

    Raises Failure if the host shows another key than the known or the expected one.
    """
    shown = _shown_key(host)
    known = _known_key(known_hosts, host)
    for trusted, source in ((_fingerprint(known) if known else "", str(known_hosts)), (expected, "--fingerprint")):
        if trusted and trusted != _fingerprint(shown):
            raise Failure(
                f"{host.name} ({host.address}) shows the key {_fingerprint(shown)}, but {source} says {trusted}: "
                "it may be another machine, or an attacker in between.",
                f"If the host was reinstalled, remove its line from {known_hosts} and pass --fingerprint.",
                Exit.BAD_INPUT,
            )
    if known:
        return
    if not expected:
        console.print(f"{host.name} ({host.address}) shows the key {_fingerprint(shown)}")
        confirm(
            "Is that what its console or provider shows?",
            yes=False,
            unasked="Pass what its console or provider shows: --fingerprint=SHA256:...",
        )
    text = known_hosts.read_text() if known_hosts.is_file() else ""
    known_hosts.write_text(f"{text}{host.name},{host.address} {KEY_TYPE} {shown}\n")


def _shown_key(host: Host) -> str:
    command = ["ssh-keyscan", "-T", str(KEYSCAN_SECONDS), "-t", "ed25519"]
    command += ["-p", str(host.variables.get("ansible_port", 22)), host.address]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in answer.stdout.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] == KEY_TYPE:
            return fields[2]
    raise Failure(
        f"{host.name} ({host.address}) shows no {KEY_TYPE} key.",
        "Is it up, does sshd run there, and does a firewall between let you through?",
        Exit.UNAVAILABLE,
    )


def _known_key(known_hosts: Path, host: Host) -> str:
    if not known_hosts.is_file():
        return ""
    for line in known_hosts.read_text().splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] == KEY_TYPE and host.address in fields[0].split(","):
            return fields[2]
    return ""


def _fingerprint(key: str) -> str:
    """The fingerprint of a key (base64), written as ssh-keygen writes it."""
    digest = base64.b64encode(hashlib.sha256(base64.b64decode(key)).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"
