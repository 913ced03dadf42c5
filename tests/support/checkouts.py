"""Checkouts in other places: copies of the files at work here, for tests of where a checkout may be and who uses it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ops.paths import ROOT
from ops.release import source
from tests.support import commands

FOREIGN = {"LC_ALL": "C"}
"""A locale without UTF-8."""
LONG = "/".join(["a-folder-with-a-long-name" * 3] * 4)
"""Longer than a "#!" line may be."""
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Ask the Python that runs modules where it is
      ansible.builtin.setup:
        gather_subset: ["!all", "!min", python]
    - name: Expect that of the checkout
      ansible.builtin.assert:
        that: ansible_facts.python.executable == (playbook_dir | realpath) ~ "/.venv/bin/python"
"""
TASK = """
import os
import subprocess

from invoke import task

from ops import ansible
from ops.paths import ROOT, tool


@task
def play(_context):
    variables = {**os.environ, **ansible.settings()}
    subprocess.run([tool("ansible-playbook"), str(ROOT / "play.yml")], env=variables, check=True)
"""


@dataclass(frozen=True)
class Kind:
    """A kind of place: folders below another, which may be reached through a `link`; and how commands are run there."""

    name: str
    folder: str
    link: bool = False
    umask: int = 0o022
    variables: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


KINDS = (
    Kind("blank", "two words"),
    Kind("single quote", "it's"),
    Kind("double quote", 'the "new" one'),
    Kind("other letters", "größer/日本", variables=FOREIGN),
    Kind("symbolic link", "a place", link=True),
    Kind("umask", "plain", umask=0o077),
    Kind("long", LONG),
)
WORST = Kind("all at once", 'two words/it\'s "ü"', link=True, umask=0o077, variables=FOREIGN)


@dataclass(frozen=True)
class Checkout:
    """A copy, by the name that its user has for it."""

    root: Path
    kind: Kind

    def run(self, *command: str | Path, seconds: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command from another working directory; all that is said is in stdout. Asserts that it succeeds."""
        answer = commands.run(
            *command, seconds=seconds, env={**variables, **self.kind.variables}, cwd="/", umask=self.kind.umask
        )
        assert answer.returncode == 0, answer.stdout
        return answer

    def inv(self, *words: str, seconds: float = 300) -> str:
        """What `inv` says."""
        return self.run(self.root / "inv", *words, seconds=seconds).stdout

    def play(self) -> None:
        """Run a play on localhost as tasks do, with mitogen."""
        (self.root / "play.yml").write_text(PLAY)
        (self.root / "of_a_test.py").write_text(TASK)
        said = self.inv("--collection=of_a_test", "play")
        assert "ok=2" in said, said


def copy(place: Path, kind: Kind, *, environment: bool = True) -> Checkout:
    """Copy the checkout at work to a place of a kind. With `environment` its .venv too: what is installed is shared,
    the commands that start it are copies.
    """
    root = place / kind.folder / "longhaul"
    for path in source._work_tree("."):
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)
    subprocess.run(["git", "init", "--quiet", root], check=True)  # where molecule looks for .config
    if environment:
        made = root / ".venv"
        made.mkdir()
        for path in (ROOT / ".venv").iterdir():
            if path.name == "bin":
                shutil.copytree(path, made / path.name, symlinks=True)
            elif path.is_file():
                shutil.copy2(path, made / path.name)
            else:
                (made / path.name).symlink_to(path)
    if kind.umask == 0o077:  # as a clone under it is
        subprocess.run(["chmod", "--recursive", "go=", root], check=True)
    if kind.link:
        (place / "link of mine").symlink_to(root, target_is_directory=True)
        root = place / "link of mine"
    return Checkout(root, kind)
