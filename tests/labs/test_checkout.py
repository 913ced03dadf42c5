"""A checkout in a difficult place makes a host and tests a role there; after sudo its owner goes on without it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.paths import ROOT
from ops.release.tools import STAMP
from tests.support import checkouts
from tests.support.checkouts import WORST, Checkout, Kind

ROLE = "base"
HOST = "web1"
ACCOUNT = 65534
"""nobody: every machine has it."""
BECOME = """
set -eu
python=$1 closed=$2 account=$3
shift 3
if [ -n "$closed" ]; then
    mkdir -p /run/longhaul-python
    mount --bind "$python" /run/longhaul-python
    mount -t tmpfs -o mode=0755 closed "$closed"
    mkdir -p "$python"
    mount --bind /run/longhaul-python "$python"
fi
exec setpriv --reuid="$account" --regid="$account" --clear-groups "$@"
"""
"""Runs a command as an account. If it may not enter the folder of our Python (root's home), that Python is all it finds
there, in a mount namespace of its own.
"""


def test_a_role_is_tested_on_a_host_from_the_worst_of_places(tmp_path: Path) -> None:
    checkout = checkouts.copy(tmp_path, WORST)
    try:
        checkout.inv("role.test", ROLE, "--step=create", seconds=600)
        ask = "from ops.roles import scenario_lab; print(scenario_lab('base'))"
        python = checkout.root / ".venv" / "bin" / "python"
        lab = checkout.run("env", f"--chdir={checkout.root}", python, "-c", ask).stdout.strip()
        everybody = ["setpriv", f"--reuid={ACCOUNT}", "cat", "/etc/hosts", "/etc/apt/sources.list.d/debian.sources"]
        checkout.run(checkout.root / "inv", "lab.exec", HOST, "--", *everybody, LONGHAUL_LAB=lab)
    finally:
        checkout.inv("role.test", ROLE, "--step=destroy")


@pytest.fixture
def of_an_account() -> Iterator[Checkout]:
    """A checkout that belongs to a normal account, with the packages of an older lock, which `inv` has to update."""
    with tempfile.TemporaryDirectory(prefix="longhaul-account-") as name:
        place = Path(name)
        place.chmod(0o755)
        made = checkouts.copy(place, Kind("of an account", "home of mine"), environment=False)
        subprocess.run(["chown", "--recursive", f"{ACCOUNT}:{ACCOUNT}", place], check=True)
        subprocess.run(["cp", "--archive", ROOT / ".venv", made.root], check=True)
        (made.root / ".venv" / STAMP).write_text("of an older lock\n")
        yield made


def test_after_sudo_the_owner_goes_on_without_it(of_an_account: Checkout) -> None:
    root = of_an_account.root
    sudo = {"SUDO_UID": str(ACCOUNT), "SUDO_GID": str(ACCOUNT), "SUDO_USER": "nobody", "HOME": "/root"}
    of_an_account.run(root / "inv", "--list", seconds=600, **sudo)
    _belongs_to_its_owner(root)
    said = of_an_account.run(root / "inv", "role.test", ROLE, "--step=destroy", **sudo).stdout
    assert "destroy passed" in said
    _belongs_to_its_owner(root)
    mine = Account(of_an_account.root, of_an_account.kind)
    made = (root / ".venv").stat().st_ino
    assert "role.test" in mine.inv("--list")
    assert (root / ".venv").stat().st_ino == made
    mine.play()


class Account(Checkout):
    """A checkout whose commands are run as its owner."""

    def run(self, *command: str | Path, seconds: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
        """As of a checkout."""
        python = Path(sys.base_prefix)
        closed = [str(path) for path in reversed(python.parents) if not path.stat().st_mode & 0o001]
        become = ["unshare", "--mount", "sh", "-c", BECOME, "sh", str(python), *(closed[:1] or [""]), str(ACCOUNT)]
        return super().run(*become, *command, seconds=seconds, **{**variables, "HOME": str(self.root.parent)})


def _belongs_to_its_owner(root: Path) -> None:
    """But for files that have another name in root's cache of packages."""
    found = [Path(folder) / name for folder, folders, files in os.walk(root) for name in (".", *folders, *files)]
    owned = {path: path.lstat() for path in found}
    assert {str(path) for path, is_ in owned.items() if is_.st_uid != ACCOUNT and is_.st_nlink == 1} == set()
