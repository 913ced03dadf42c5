"""`inv` finds a Python, makes its environment once, and says what is missing: a copy with stand-in interpreters."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from ops.paths import ROOT

# Stands in for python3.N: tells its version, "makes" a virtual environment and "installs" by writing what it was given.
PYTHON = """#!/usr/bin/env bash
case "$1" in
    --version) echo "Python {version}" ;;
    -c) [ "{version}" != 3.11 ] ;;
    -m) case "$2" in
            venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
                  printf '#!/bin/sh\\necho "invoke $*"\\n' >"$3/bin/invoke" && chmod +x "$3/bin/invoke" ;;
            pip) echo "$*" >>"{log}"; {pip} ;;
        esac ;;
esac
"""
# What the wrapper itself needs from the system; anything else on PATH would be this machine's.
SYSTEM = [
    "bash", "sh", "env", "dirname", "realpath", "readlink", "locale", "sha256sum", "flock", "mktemp", "cat", "rm",
    "mkdir", "cp", "chmod", "sort",
]  # fmt: skip


class Sandbox:
    """A copy of the wrapper with a PATH of its own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        self.root.mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.home = folder / "home"
        self.home.mkdir()
        self.log = folder / "pip.log"
        shutil.copy(ROOT / "inv", self.root / "inv")
        (self.root / "requirements.txt").write_text("one==1\n")
        for name in SYSTEM:
            (self.bin / name).symlink_to(shutil.which(name) or f"/missing/{name}")

    def python(self, path: Path, version: str, pip: str = "true") -> None:
        """Put a stand-in interpreter at `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PYTHON.format(version=version, log=self.log, pip=pip))
        path.chmod(0o755)

    def uv(self, body: str) -> None:
        """Put a stand-in uv on PATH."""
        path = self.bin / "uv"
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the wrapper as a user would."""
        return subprocess.run(
            [self.root / "inv", *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.home)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A fresh copy."""
    return Sandbox(tmp_path)


def test_first_use_installs_with_hashes_and_later_ones_do_not(sandbox: Sandbox) -> None:
    sandbox.python(sandbox.bin / "python3.13", "3.13")
    first = sandbox.run("--list")
    assert first.returncode == 0, first.stderr
    assert "--list" in first.stdout
    assert "--require-hashes" in sandbox.log.read_text()
    second = sandbox.run("deploy", "--env=lab")
    assert "deploy --env=lab" in second.stdout
    assert len(sandbox.log.read_text().splitlines()) == 1


def test_too_old_python_is_passed_over_for_one_of_pyenv(sandbox: Sandbox) -> None:
    sandbox.python(sandbox.bin / "python3", "3.11")
    sandbox.python(sandbox.home / ".pyenv" / "versions" / "3.12.1" / "bin" / "python3", "3.12.1")
    sandbox.python(sandbox.home / ".pyenv" / "versions" / "3.13.0" / "bin" / "python3", "3.13.0")
    answer = sandbox.run()
    assert answer.returncode == 0, answer.stderr
    assert "Python 3.13.0" in answer.stderr


def test_uv_brings_a_python_where_there_is_none(sandbox: Sandbox) -> None:
    brought = sandbox.home / "uv" / "bin" / "python3.13"
    sandbox.python(brought.with_name("not-yet"), "3.13.7")
    sandbox.uv(f"""
        case "$*" in
            "python install --quiet 3.13") cp {brought.with_name("not-yet")} {brought} ;;
            "python find 3.13") echo {brought} ;;
        esac""")
    answer = sandbox.run("--list")
    assert answer.returncode == 0, answer.stderr
    assert "Python 3.13.7" in answer.stderr
    assert "--list" in answer.stdout


def test_uv_that_cannot_bring_a_python_is_no_python(sandbox: Sandbox) -> None:
    sandbox.uv("exit 1")
    answer = sandbox.run("--list")
    assert answer.returncode == 69
    assert "Python 3.12 or newer" in answer.stderr


def test_an_environment_whose_python_cannot_be_run_is_made_anew(sandbox: Sandbox) -> None:
    """As when root has made it, with a Python from root's home."""
    sandbox.python(sandbox.bin / "python3.13", "3.13")
    sandbox.run()
    (sandbox.root / ".venv" / "bin" / "python").unlink()
    answer = sandbox.run("--list")
    assert answer.returncode == 0, answer.stderr
    assert "--list" in answer.stdout
    assert os.access(sandbox.root / ".venv" / "bin" / "python", os.X_OK)
    assert len(sandbox.log.read_text().splitlines()) == 2


def test_no_python_says_what_to_install(sandbox: Sandbox) -> None:
    sandbox.python(sandbox.bin / "python3", "3.11")
    answer = sandbox.run("--list")
    assert answer.returncode == 69
    assert "Python 3.12 or newer" in answer.stderr
    assert "install uv" in answer.stderr


def test_no_python_on_debian_names_the_package(sandbox: Sandbox) -> None:
    for name, body in {"apt-get": "true", "apt-cache": '[ "$2" = python3.13-venv ]'}.items():
        (sandbox.bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (sandbox.bin / name).chmod(0o755)
    answer = sandbox.run("--list")
    assert answer.returncode == 69
    assert "apt-get install python3.13 python3.13-venv" in answer.stderr


def test_failed_installation_leaves_nothing_half_made(sandbox: Sandbox) -> None:
    sandbox.python(sandbox.bin / "python3.13", "3.13", pip="echo no such package; exit 1")
    answer = sandbox.run("--list")
    assert answer.returncode == 69
    assert "no such package" in answer.stderr
    assert not (sandbox.root / ".venv").exists()
    sandbox.python(sandbox.bin / "python3.13", "3.13")
    assert sandbox.run("--list").returncode == 0


def test_changed_lock_is_installed(sandbox: Sandbox) -> None:
    sandbox.python(sandbox.bin / "python3.13", "3.13")
    sandbox.run()
    uv = sandbox.root / ".venv" / "bin" / "uv"
    uv.write_text(f'#!/bin/sh\necho "uv $*" >>"{sandbox.log}"\n')
    uv.chmod(0o755)
    (sandbox.root / "requirements.txt").write_text("one==2\n")
    assert sandbox.run().returncode == 0
    assert "uv pip sync" in sandbox.log.read_text()
    lines = len(sandbox.log.read_text().splitlines())
    sandbox.run()
    assert len(sandbox.log.read_text().splitlines()) == lines


def test_an_update_that_was_killed_is_not_taken_for_the_lock_before(sandbox: Sandbox) -> None:
    """The killed uv has replaced some of the packages when the old lock comes back."""
    sandbox.python(sandbox.bin / "python3.13", "3.13")
    sandbox.run()
    lock, uv = sandbox.root / "requirements.txt", sandbox.root / ".venv" / "bin" / "uv"
    uv.write_text("#!/bin/sh\nkill -9 $PPID\n")
    uv.chmod(0o755)
    before = lock.read_text()
    lock.write_text("one==2\n")
    assert sandbox.run().returncode == -signal.SIGKILL
    lock.write_text(before)
    uv.write_text(f'#!/bin/sh\necho "uv $*" >>"{sandbox.log}"\n')
    assert sandbox.run().returncode == 0
    assert "uv pip sync" in sandbox.log.read_text()


def test_works_from_another_directory(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.python(sandbox.bin / "python3.13", "3.13")
    answer = subprocess.run(
        [sandbox.root / "inv"],
        cwd=tmp_path,
        env={**os.environ, "PATH": str(sandbox.bin), "HOME": str(sandbox.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert f"--search-root {sandbox.root}" in answer.stdout


def test_a_link_to_the_wrapper_finds_the_checkout(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.python(sandbox.bin / "python3.13", "3.13")
    (sandbox.home / "inv").symlink_to(sandbox.root / "inv")
    answer = subprocess.run(
        [sandbox.home / "inv"],
        cwd=tmp_path,
        env={"PATH": str(sandbox.bin), "HOME": str(sandbox.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert f"--search-root {sandbox.root}" in answer.stdout


@pytest.mark.parametrize("name", ["one:two", "one\ntwo"])
def test_a_path_that_cannot_be_named_is_refused(sandbox: Sandbox, name: str) -> None:
    sandbox.python(sandbox.bin / "python3.13", "3.13")
    sandbox.root = sandbox.root.rename(sandbox.root.with_name(name))
    answer = sandbox.run("--list")
    assert answer.returncode == 78
    assert "colon or a line break" in answer.stderr
    assert not (sandbox.root / ".venv").exists()


def test_what_is_made_does_not_depend_on_the_users_umask_and_locale(sandbox: Sandbox) -> None:
    sandbox.python(sandbox.bin / "python3.13", "3.13")
    sandbox.run()
    invoke = sandbox.root / ".venv" / "bin" / "invoke"
    invoke.write_text("#!/bin/sh\numask\nlocale charmap\n")
    for variables in ({"LC_ALL": "C"}, {"LANG": "no_SUCH.UTF-8"}, {"LC_ALL": "C.UTF-8"}):
        answer = subprocess.run(
            [sandbox.root / "inv"],
            env={"PATH": str(sandbox.bin), "HOME": str(sandbox.home), **variables},
            umask=0o077,
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.split() == ["0022", "UTF-8"]
