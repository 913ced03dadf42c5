"""The tracer with a newer Python than the hosts have: it reaches processes that do not listen (PEP 768)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.lab.sources import mirror
from ops.paths import APP

SUITE = "forky"
"""Debian's release after that of the hosts, the first with Python 3.14."""
PROGRAM = """\
import time
def work(n):
    total = n + 1
    return total
print("ready", flush=True)
n = 0
while True:
    n = work(n)
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root filesystem with the newer Python and the tracer."""
    made = tmp_path_factory.mktemp("newer") / "root"
    # What mirrors keep of a suite in the making is often older than it says that it may be.
    options = ['--aptopt=Acquire::Check-Valid-Until "false"', "--dpkgopt=force-unsafe-io", "--include=python3"]
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", *options, SUITE, made, mirror().main], check=True)
    shutil.copytree(APP / "linetrace", made / "app" / "linetrace")
    (made / "app" / "program.py").write_text(PROGRAM)
    subprocess.run(["mount", "-t", "proc", "proc", made / "proc"], check=True)
    yield made
    subprocess.run(["umount", made / "proc"], check=True)


def test_a_process_that_does_not_listen_is_traced(root: Path) -> None:
    """The lines come, the process goes on, and nothing is left of the tracer's ways in."""
    shell = """
        cd /app
        python3 program.py & program=$!
        trap 'kill $program' EXIT
        sleep 1
        for turn in 1 2; do  # it can be reached again
            python3 -m linetrace attach --pid $program --function work --values total --lines 3
        done
        ls /tmp
    """
    ran = subprocess.run(
        ["chroot", root, "bash", "-euc", shell], capture_output=True, text=True, timeout=120, check=True
    )
    lines = ran.stdout.splitlines()
    assert lines[0] == "ready"
    assert len(lines) == 7, "something was left in /tmp"
    assert [line.partition(" == ")[0] for line in lines[1:4]] == [
        "__main__:3:     total = n + 1",
        "__main__:3:",
        "__main__:4:     return total",
    ]
