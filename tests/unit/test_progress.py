"""The bar of work that takes long."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from ops import progress
from ops.errors import Failure


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, total: int | None, steps: int) -> str:
    """What is shown of work that counts as long, though it is not."""
    output = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=output, width=80, force_terminal=terminal))
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    with progress.progress("copying disks", total) as advance:
        for _ in range(steps):
            advance()
    return output.getvalue()


def test_a_terminal_shows_how_many_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(monkeypatch, terminal=True, total=3, steps=2))
    assert re.search(r"copying disks ━+.* 2/3 0:0", output), output


@pytest.mark.parametrize(
    ("total", "lines"),
    [(3, ["copying disks: done in 0.0 s"]), (None, ["copying disks ...", "copying disks: done in 0.0 s"])],
)
def test_elsewhere_it_is_a_line(monkeypatch: pytest.MonkeyPatch, total: int | None, lines: list[str]) -> None:
    assert shown(monkeypatch, terminal=False, total=total, steps=2).splitlines() == lines


@pytest.mark.parametrize(("code", "said"), [(0, ""), (3, "of the program\nits error\n")])
def test_what_another_program_says_is_shown_only_if_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, said: str
) -> None:
    output = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=output, width=80))
    script = f"echo of the $WHAT; pwd >place; echo its error >&2; exit {code}"
    with pytest.raises(Failure, match="no good") if code else contextlib.nullcontext():
        progress.quietly(
            ["sh", "-c", script], "asking it", Failure("no good"), folder=tmp_path, variables={"WHAT": "program"}
        )
    assert output.getvalue() == f"asking it ...\n{said}{chr(10) if code else ''}"
    assert (tmp_path / "place").read_text().strip() == str(tmp_path)
