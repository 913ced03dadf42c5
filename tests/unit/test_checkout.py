"""A checkout works wherever it is. (tests/labs and tests/soak do the same with hosts.)"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ops.environment import Environment
from ops.environment import Kind as EnvironmentKind
from ops.paths import INVENTORIES, ROOT
from tests.support import checkouts
from tests.support.checkouts import KINDS, LONG, WORST, Kind
from tests.support.variables import Inventory

TASKS = """
from invoke import task

@task
def hello(context):
    "Say hello."
    print("hello")
"""


@pytest.mark.parametrize("kind", [*KINDS, WORST], ids=str)
def test_inv_and_a_play_on_localhost_run_wherever_the_checkout_is(kind: Kind, tmp_path: Path) -> None:
    checkouts.copy(tmp_path, kind).play()


@pytest.mark.parametrize("folder", [WORST.folder, LONG], ids=["quotes", "long"])
def test_the_first_use_installs_commands_that_find_their_python(folder: str, tmp_path: Path) -> None:
    """With the one package that `inv` calls: what begins a command is the same for all."""
    root = tmp_path / folder
    root.mkdir(parents=True)
    (root / "inv").write_bytes((ROOT / "inv").read_bytes())
    (root / "inv").chmod(0o755)
    (root / "tasks.py").write_text(TASKS)
    (locked,) = re.findall(r"^invoke==(?:.*\\\n)*.*\n", (ROOT / "requirements.txt").read_text(), flags=re.M)
    (root / "requirements.txt").write_text(locked)
    first = subprocess.run([root / "inv", "hello"], capture_output=True, text=True, check=False)
    assert first.stdout == "hello\n", first.stderr
    moved = root.rename(tmp_path / "moved")
    assert subprocess.run([moved / "inv", "hello"], capture_output=True, text=True, check=True).stdout == "hello\n"


@pytest.mark.parametrize("folder", ["two  words", "it's", 'a "new" one', "100%h", "back\\\\slash", "größer"])
def test_ssh_reads_known_hosts_wherever_they_are(folder: str, tmp_path: Path) -> None:
    copy = tmp_path / folder
    shutil.copytree(INVENTORIES / "prod", copy)
    for_ansible = Inventory(copy / "hosts.yml", []).variables("web1")["ansible_ssh_common_args"]
    for options in (Environment("prod", copy, EnvironmentKind.REAL).ssh_options(), shlex.split(for_ansible)):
        command = ["ssh", "-G", "-F", "none", *options, "host"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        assert f"\nuserknownhostsfile {copy}/known_hosts\n" in answer.stdout
