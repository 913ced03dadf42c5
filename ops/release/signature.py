"""Signs releases, and lists the signers that an environment accepts: `ssh-keygen -Y` (ssh-keygen(1)).

A person signs with their SSH key; the lab has a key of its own among its secrets.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jinja2

from ops import secrets
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.on_host.install_release import NAMESPACE

PROVENANCE_NAMESPACE = "longhaul-provenance"
KEY_VARIABLE = "LONGHAUL_SIGNING_KEY"
SIGNERS = "release_signers"
"""Inventory variable: who may sign releases of the environment, as a list of {principal, key}."""


@contextmanager
def signing_key(given: str = "", *, for_lab: bool = False) -> Iterator[Path]:
    """The file of the key to sign with: `given`, or what LONGHAUL_SIGNING_KEY names (unless `for_lab`), or the lab's.

    It may be a public key if the SSH agent has the private one. Raises Failure if there is no such file.
    """
    named = given or ("" if for_lab else os.environ.get(KEY_VARIABLE, ""))
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise Failure(
                f"There is no key to sign with at {path}.",
                f"Name your SSH key with --key or in {KEY_VARIABLE}; for the lab give neither.",
                Exit.USAGE,
            )
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="longhaul-key-") as directory:  # mode 0700
        path = Path(directory) / "key"
        path.touch(mode=0o600)
        path.write_text(secrets.read(secrets.ensure_lab())["vault_release_signing_key"])
        yield path


def fingerprint(key: Path) -> str:
    """The fingerprint (SHA256:...) of a key; needs no passphrase. Raises Failure if the file is not a key."""
    answer = _ssh_keygen(["-l", "-f", str(key)])
    found = re.search(r"SHA256:\S+", answer.stdout)
    if found is None:
        raise Failure(f"{key} is not an SSH key: {answer.stderr.strip()}", code=Exit.USAGE)
    return found[0]


def sign(file: Path, key: Path, target: Path, namespace: str = NAMESPACE) -> None:
    """Write the signature of a file. Raises Failure if the key cannot sign."""
    with file.open("rb") as message, target.open("wb") as output:
        answer = subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", namespace],
            stdin=message,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if answer.returncode != 0:
        raise Failure(
            f"{key} did not sign {file.name}: {answer.stderr.strip()}",
            f"Name a private key, or a public one that ssh-add -l lists, with --key or in {KEY_VARIABLE}.",
            Exit.USAGE,
        )


@contextmanager
def allowed_signers(environment: Environment) -> Iterator[Path]:
    """A file with the allowed signers of an environment, in the format of ssh-keygen(1).

    Raises Failure if the inventory names none.
    """
    values = secrets.read(environment) if environment.is_lab else {}
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - no HTML
    with tempfile.TemporaryDirectory(prefix="longhaul-signers-") as directory:
        path = Path(directory) / "release-signers"
        with path.open("w") as file:
            for signer in environment.variable(SIGNERS):
                key = template.from_string(signer["key"]).render(values)
                file.write(f'{signer["principal"]} namespaces="{NAMESPACE}" {key}\n')
        yield path


def _ssh_keygen(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, check=False)
