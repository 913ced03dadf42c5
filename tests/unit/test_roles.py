"""Scenarios of roles do not get into each other's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops import roles, testing
from ops.lab.place import Place


def test_every_scenario_of_every_checkout_has_a_lab_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = [*roles.names(), "apt_repository"]
    here = {Place.of(roles.scenario_lab(role)).name for role in names}  # refuses what is no name for a lab
    assert len(here) == len(set(names))
    monkeypatch.setattr(roles, "ROLES", tmp_path)
    assert not here & {roles.scenario_lab(role) for role in names}


def test_the_scenarios_that_begin_first_are_there() -> None:
    assert set(roles.names()) >= testing.LONG_SCENARIOS
