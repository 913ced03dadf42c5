"""Playbooks run with mitogen unless it is switched off: then with Ansible's own strategy."""

from __future__ import annotations

import pytest

from ops import ansible

STRATEGY = "ANSIBLE_STRATEGY"


def test_mitogen_is_switched_off_by_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ansible.MITOGEN_SWITCH, "0")
    assert STRATEGY not in ansible.settings()


@pytest.mark.parametrize("value", [None, "1", ""])
def test_mitogen_is_on_otherwise(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv(ansible.MITOGEN_SWITCH, raising=False)
    else:
        monkeypatch.setenv(ansible.MITOGEN_SWITCH, value)
    assert "mitogen" in ansible.settings()[STRATEGY]
