"""The bar of work that takes long."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ops import progress


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
