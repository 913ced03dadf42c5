"""The order of the soak."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a machine may be too small for comes first, so that it is known before the hours that follow."""
    items.sort(key=lambda item: item.path.name != "test_whole_load.py")
