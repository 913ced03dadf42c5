"""The order of the system tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits longest comes first: other stages begin beside it, and have less left for the busy tests to share."""
    items.sort(key=lambda item: item.path.name != "test_patience.py")
