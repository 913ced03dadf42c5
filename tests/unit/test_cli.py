"""Tasks end with a message and an exit code, and ask before they change anything."""

from __future__ import annotations

import subprocess

import pytest

from ops import testing
from ops.cli import confirm, task
from ops.errors import Exit, Failure
from ops.paths import ROOT


def test_failure_becomes_message_and_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    @task()
    def broken(_context: object) -> None:
        """Break."""
        raise Failure("It broke [here].", "Mend it.", Exit.BAD_INPUT)

    with pytest.raises(SystemExit) as caught:
        broken.body(None)
    assert caught.value.code == Exit.BAD_INPUT
    shown = capfd.readouterr().err
    assert "It broke [here]." in shown
    assert "Mend it." in shown


def test_nobody_to_ask_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    with pytest.raises(Failure, match="Nobody is there"):
        confirm("Delete?", yes=False)
    confirm("Delete?", yes=True)


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


def test_stages_keep_their_order() -> None:
    assert [stage.name for stage in testing.chosen("")] == ["lint", "fast", "app", "molecule", "system"]
