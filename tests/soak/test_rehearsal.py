"""A whole environment, deployed in a rehearsal: staging, whose hosts have several functions each."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ops.lab.lab import Lab
from tests.support.site import inv

REHEARSE = "--rehearse=staging"


@pytest.fixture
def rehearsal() -> Iterator[Lab]:
    """A rehearsal that is up, and new."""
    made = Lab.rehearsing("staging")
    made.destroy()
    made.up()
    yield made
    made.destroy()


@pytest.mark.usefixtures("rehearsal")
def test_staging_is_deployed_and_is_what_its_inventory_says() -> None:
    done = inv("deploy", REHEARSE, "--yes", seconds=1800)
    assert done.returncode == 0, done.stdout[-10000:]
    state = inv("status", REHEARSE, "--json")
    assert state.returncode == 0, state.stdout
    found = json.loads(state.stdout[state.stdout.index("[\n") :])
    assert {host["name"] for host in found} == {"edge1", "node1", "node2", "node3"}
    drift = inv("drift", REHEARSE, seconds=900)
    assert drift.returncode == 0, drift.stdout[-10000:]
