"""Every kind of place for a checkout, from its first use to a role's test on a host (tests/unit has the quick half)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import checkouts
from tests.support.checkouts import KINDS, Kind

ROLE = "base"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_fresh_checkout_works_wherever_it_is(kind: Kind, tmp_path: Path) -> None:
    checkout = checkouts.copy(tmp_path, kind, environment=False)
    assert "role.test" in checkout.inv("--list", seconds=900)
    checkout.play()
    try:
        checkout.inv("role.test", ROLE, "--step=converge", seconds=900)
    finally:
        checkout.inv("role.test", ROLE, "--step=destroy")
