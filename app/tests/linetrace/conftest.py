"""What all tests of the tracer share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from linetrace.monitor import MONITOR
from tests.linetrace.running import nothing_is_armed


@pytest.fixture(autouse=True)
def nothing_stays_armed() -> Iterator[None]:
    """A failed test does not make the next one fail; a good one leaves nothing."""
    yield
    left = nothing_is_armed()
    for trace in MONITOR.traces:
        trace.stop("the test left it")
    assert left
