"""The locks of the Python packages: what the control side and the application install, each with its hashes."""

from __future__ import annotations

import subprocess

from ops.cli import task
from ops.errors import Failure
from ops.paths import ROOT, tool

CONTROL_PYTHON = "3.12"  # the oldest that the control side runs on
HOST_PYTHON = "3.13"  # what Debian 13 has

_LOCKS: tuple[tuple[str, str, str, list[str]], ...] = (
    # (input, lock, Python, further arguments); the control side takes the application's versions as given.
    ("app/requirements.in", "app/requirements.txt", HOST_PYTHON, []),
    ("requirements.in", "requirements.txt", CONTROL_PYTHON, ["--constraint", "app/requirements.txt"]),
)


@task(help={"upgrade": "take the newest versions instead of keeping those in the locks"})
def lock(_context: object, upgrade: bool = False) -> None:
    """Write the hash-locked requirements from their .in files."""
    for source, target, python, arguments in _LOCKS:
        command = [tool("uv"), "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-emit-index-url"]
        command += ["--custom-compile-command", "./inv requirements.lock", "--python-version", python, *arguments]
        command += ["--upgrade"] if upgrade else []
        answer = subprocess.run([*command, source, "--output-file", target], cwd=ROOT, check=False)
        if answer.returncode != 0:
            raise Failure(f"{source} could not be resolved; uv's reason is above.", "Mend it and run this again.")
