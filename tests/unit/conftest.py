"""What unit tests share."""

from __future__ import annotations

import pytest

from ops.deployment import deployment, releases
from tests.support.fleet import World


@pytest.fixture(autouse=True)
def no_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that a test calls finds no lab: one that somebody has at work must not get this checkout's inventory."""
    monkeypatch.setenv("LONGHAUL_LAB", "none")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(deployment, "run_playbook", made.play)
    monkeypatch.setattr(releases, "ask", made.ask)
    monkeypatch.setattr(releases, "away", lambda _environment, hosts: [h.name for h in hosts if h.name in made.silent])
    monkeypatch.setattr(deployment.access, "access", lambda _environment: None)
    monkeypatch.setattr(deployment, "prove", lambda _reach, *, worker, release: made.done.append(f"smoke {worker}"))
    return made
