"""The lock of packages: which snapshot the hosts of an environment have, and the version of each package in it.

The lock is a file of the inventory, under version control like the rest; a lab has its own, in its generated inventory.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.inventories import PACKAGES_FILE
from ops.paths import INVENTORIES, ROOT

_HEAD = (
    "# Which packages the hosts have. Written by ./inv packages.update, .revert and .apply; commit it, never edit it.\n"
)


class _Text(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that a change of the key can be read."""


_Text.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


@dataclass(frozen=True)
class PackageLock:
    """A lock: name of the snapshot, armoured public key of its signature, and package -> version."""

    snapshot: str
    key: str
    versions: Mapping[str, str]

    @property
    def text(self) -> str:
        """The file."""
        values = {
            "base_apt_snapshot": self.snapshot,
            "base_apt_snapshot_key": self.key.strip() + "\n",
            "package_versions": dict(sorted(self.versions.items())),
        }
        return _HEAD + yaml.dump(values, Dumper=_Text, sort_keys=False, width=120)

    @classmethod
    def from_text(cls, text: str) -> PackageLock:
        """Read what `text` wrote. Raises Failure if it is not a lock of packages."""
        try:
            values: dict[str, Any] = yaml.safe_load(text)
            return cls(values["base_apt_snapshot"], values["base_apt_snapshot_key"], values["package_versions"])
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise Failure(
                f"{PACKAGES_FILE} is not a lock of packages: {error}", "Restore it from git.", Exit.BAD_CONFIGURATION
            ) from None


def path_of(environment: Environment) -> Path:
    """The path of an environment's lock, whether or not the lock exists."""
    return environment.inventory / PACKAGES_FILE


def read(environment: Environment) -> PackageLock | None:
    """The lock; None if there is none: hosts then install what Debian has today."""
    path = path_of(environment)
    return PackageLock.from_text(path.read_text()) if path.is_file() else None


def write(environment: Environment, lock: PackageLock) -> None:
    """Replace the lock."""
    path = path_of(environment)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(lock.text)
    scratch.replace(path)


def at(environment: Environment, ref: str) -> PackageLock:
    """The lock as it was in a commit. Raises Failure if there is no such commit, or no lock in it."""
    name = (INVENTORIES / environment.name / PACKAGES_FILE).relative_to(ROOT).as_posix()
    answer = subprocess.run(["git", "show", f"{ref}:{name}"], cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise Failure(
            f"There is neither a snapshot '{ref}' nor a lock in a commit of that name: {answer.stderr.strip()}",
            f"Snapshots: ./inv packages.status --env={environment.name}. Commits of the lock: git log -- {name}",
            Exit.USAGE,
        )
    return PackageLock.from_text(answer.stdout)
