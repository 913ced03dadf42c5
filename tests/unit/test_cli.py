"""Tasks end with a message and an exit code, and ask before they change anything."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import re
import subprocess
from pathlib import Path

import pytest

from ops import bootstrap, testing
from ops.console import confirm
from ops.environment import Host
from ops.errors import Exit, Failure
from ops.paths import ROOT, tool
from ops.tasks import declare
from ops.tasks import host as host_tasks
from ops.tasks.declare import give_to_owner, task

USER, GROUP, OTHER = 64_000, 64_001, 64_002


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (Failure("It broke [here].", "Mend it.", Exit.BAD_INPUT), Exit.BAD_INPUT, ["It broke [here].", "Mend it."]),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/somewhere/vault.yml"),
            Exit.NO_PERMISSION,
            ["/somewhere/vault.yml is not for this user: Permission denied.", "sudo ./inv"],
        ),
    ],
    ids=["failure", "not for this user"],
)
def test_failure_becomes_message_and_exit_code(
    error: Exception, code: Exit, says: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    @task()
    def broken(_context: object) -> None:
        """Break."""
        raise error

    with pytest.raises(SystemExit) as caught:
        broken.body(None)
    assert caught.value.code == code
    shown = capfd.readouterr().err
    assert [text for text in says if text not in shown] == []


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root leaves files that their users cannot change")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder of somebody who is not root."""
    made = tmp_path / "checkout"
    made.mkdir()
    os.chown(made, USER, GROUP)
    return made


@needs_root
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_task_makes_as_root_is_given_to_the_owner_of_the_checkout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(declare, "ROOT", checkout)

    @task()
    def makes(_context: object) -> None:
        """Make."""
        (checkout / ".cache" / "access").mkdir(parents=True)
        (checkout / ".cache" / "access" / "lab.crt").touch(mode=0o600)
        if fails:
            raise Failure("It broke.")

    with pytest.raises(SystemExit) if fails else contextlib.nullcontext():
        makes.body(None)
    owners = {path: (path.stat().st_uid, path.stat().st_gid) for path in checkout.rglob("*")}
    assert len(owners) == 3
    assert set(owners.values()) == {(USER, GROUP)}


@needs_root
def test_nothing_else_changes_its_owner(checkout: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch()
    (checkout / "link").symlink_to(outside)
    (checkout / "shared").hardlink_to(outside)
    other = checkout / "other"
    other.touch()
    os.chown(other, OTHER, OTHER)
    give_to_owner(checkout)
    assert outside.stat().st_uid == 0
    assert (checkout / "link").lstat().st_uid == USER
    assert other.stat().st_uid == OTHER


@needs_root
def test_the_checkout_of_root_stays_roots(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.touch()
    os.chown(shared, 0, GROUP)
    give_to_owner(tmp_path)
    assert (shared.stat().st_uid, shared.stat().st_gid) == (0, GROUP)


def test_nobody_to_ask_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    with pytest.raises(Failure, match="Nobody is there"):
        confirm("Delete?", yes=False)
    confirm("Delete?", yes=True)


def test_nobody_to_ask_about_a_host_key_names_the_option_that_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A key that nobody has looked at is not to be accepted by --yes."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    monkeypatch.setattr(bootstrap, "_shown_key", lambda _: "QUFBQQ==")
    host = Host("web1", frozenset(), {"ansible_host": "192.0.2.21"})
    with pytest.raises(Failure, match="Nobody is there") as caught:
        bootstrap.know(tmp_path / "known_hosts", host, "")
    (option,) = re.findall(r"--(\w+)", caught.value.hint)
    assert option in inspect.signature(host_tasks.bootstrap.body).parameters
    assert not (tmp_path / "known_hosts").exists()
    shown = bootstrap._fingerprint("QUFBQQ==")
    bootstrap.know(tmp_path / "known_hosts", host, shown)
    assert "192.0.2.21" in (tmp_path / "known_hosts").read_text()


@pytest.mark.parametrize("answer", ["", "n", "no", "yess"])
def test_only_yes_is_yes(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    with pytest.raises(Failure, match="Nothing was changed"):
        confirm("Delete?", yes=False)


def test_list_is_a_table_of_contents() -> None:
    answer = subprocess.run(
        [ROOT / "inv", "--list"], capture_output=True, text=True, check=True, env={"COLUMNS": "100", "PATH": "/usr/bin"}
    )
    lines = [line for line in answer.stdout.splitlines()[2:] if line.strip()]
    assert lines
    for line in lines:
        name, _, description = line.strip().partition(" ")
        assert len(line) - len(line.lstrip()) == 2, f"{name}: more than one line"
        assert description.strip(), f"{name}: no description"


def test_unknown_stage_names_those_that_exist() -> None:
    with pytest.raises(Failure) as caught:
        testing.chosen("everything")
    assert "molecule" in caught.value.hint


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_stage(option: str) -> None:
    command = [tool("invoke"), "--search-root", str(ROOT), "test", option]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for stage in (*testing.STAGES, testing.SOAK):
        assert re.search(rf"\b{stage.name}\b", shown)


def test_stages_keep_their_order() -> None:
    assert [stage.name for stage in testing.chosen("")] == ["lint", "fast", "app", "molecule", "system"]
