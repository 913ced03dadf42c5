"""The module that proves that services stay up: what it waits for, and what it does not wait for."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.test_modules_of_the_data_tier import FailedError, fail_json, load

stays_up = load("stays_up")
SECONDS = 0.6


class SucceededError(Exception):
    """exit_json was called."""


def waited(monkeypatch: pytest.MonkeyPatch, *says: tuple[str, float]) -> float:
    """Seconds that the module took for a unit that is in each of these states for one question, then in the last.

    A state is systemd's name and how many seconds ago it began. Raises FailedError if the module failed.
    """
    began, asked = time.monotonic(), list(says)

    def states(units: list[str]) -> dict[str, dict[str, str]]:
        state, ago = asked.pop(0) if len(asked) > 1 else asked[0]
        return {unit: {"ActiveState": state, stays_up.CHANGED: str(int((began - ago) * 1e6))} for unit in units}

    def exit_json(**_: Any) -> None:
        raise SucceededError

    params = {"units": ["x.service"], "seconds": SECONDS, "timeout": 0.5}
    module = SimpleNamespace(params=params, check_mode=False, exit_json=exit_json, fail_json=fail_json)
    monkeypatch.setattr(stays_up, "AnsibleModule", lambda **_: module)
    monkeypatch.setattr(stays_up, "states", states)
    monkeypatch.setattr(stays_up, "journal", lambda _unit: "its last words")
    with pytest.raises(SucceededError):
        stays_up.main()
    return time.monotonic() - began


def test_what_was_up_for_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited(monkeypatch, ("active", 3600), ("failed", 3600))


def test_what_changed_just_now_is_watched_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start and a reload look the same: the state changed, and is `active` again."""
    assert waited(monkeypatch, ("active", 0)) >= SECONDS
    assert waited(monkeypatch, ("activating", 0), ("active", 0)) >= SECONDS


@pytest.mark.parametrize("state", [("failed", 3600), ("activating", 3600), ("reloading", 3600), ("active", -10)])
def test_what_is_not_up_and_what_never_rests_fail_with_the_journal(
    monkeypatch: pytest.MonkeyPatch, state: tuple[str, float]
) -> None:
    with pytest.raises(FailedError, match=r"(?s)Does not stay up: x.service.*its last words"):
        waited(monkeypatch, state)
