"""What unit tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that a test calls finds no lab: one that somebody has at work must not get this checkout's inventory."""
    monkeypatch.setenv("LONGHAUL_LAB", "none")
