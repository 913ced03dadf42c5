"""The locks of Python and npm packages: what the control side, the application and the pages use, with hashes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ops import frontend
from ops.errors import Failure
from ops.paths import FRONTEND, ROOT, tool
from ops.progress import quietly

CONTROL_PYTHON = "3.12"  # the oldest that the control side runs on
HOST_PYTHON = "3.13"  # what Debian 13 has

_LOCKS: tuple[tuple[str, str, str, list[str]], ...] = (
    # (input, lock, Python, further arguments); the control side takes the application's versions as given.
    ("app/requirements.in", "app/requirements.txt", HOST_PYTHON, []),
    ("requirements.in", "requirements.txt", CONTROL_PYTHON, ["--constraint", "app/requirements.txt"]),
)


NPM_LOCK = FRONTEND / "package-lock.json"


@dataclass(frozen=True)
class LockedVersion:
    """A package whose version in a lock has changed; a version is "" if the package was added or removed."""

    lock: str
    package: str
    before: str
    after: str


def update() -> list[LockedVersion]:
    """Take the newest packages into the locks; returns what changed. Raises Failure."""
    before = _all_versions()
    compile_locks(upgrade=True)
    frontend.update()
    return changes(before, _all_versions())


def versions(lock_file: Path) -> dict[str, str]:
    """Package -> version in a lock of uv (requirements.txt) or npm (package-lock.json, with its place in the tree)."""
    text = lock_file.read_text()
    if lock_file.suffix == ".json":
        packages = json.loads(text)["packages"]
        return {
            name.removeprefix("node_modules/"): package["version"]
            for name, package in packages.items()
            if name and "version" in package
        }
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))


def changes(before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]) -> list[LockedVersion]:
    """What differs between two states of locks (name of the lock -> package -> version), sorted."""
    return [
        LockedVersion(name, package, before[name].get(package, ""), after[name].get(package, ""))
        for name in sorted(before)
        for package in sorted({*before[name], *after[name]})
        if before[name].get(package) != after[name].get(package)
    ]


def _all_versions() -> dict[str, dict[str, str]]:
    locks = [*(ROOT / target for _, target, _, _ in _LOCKS), NPM_LOCK]
    return {str(path.relative_to(ROOT)): versions(path) for path in locks}


def compile_locks(*, upgrade: bool) -> None:
    """Write the locks from the .in files; with `upgrade` with the newest versions. Raises Failure."""
    for source, target, python, arguments in _LOCKS:
        command = [tool("uv"), "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-emit-index-url"]
        command += ["--custom-compile-command", "./inv requirements.lock", "--python-version", python, *arguments]
        command += ["--upgrade"] if upgrade else []
        failure = Failure(f"{source} could not be resolved; uv's reason is above.", "Correct it and run this again.")
        quietly([*command, source, "--output-file", target], f"resolving {source}", failure)
