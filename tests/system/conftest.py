"""The order of the system tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs no site while test_patience.py waits for its scenes, two minutes in which the site is not whole.

    Its first test begins them and waits until the machine is quiet, the others wait for their ends.
    """
    begins = next((index for index, item in enumerate(items) if item.path.name == "test_patience.py"), None)
    if begins is None:
        return
    free = [item for item in items if isinstance(item, pytest.Function) and "deployed" not in item.fixturenames]
    before, after = items[: begins + 1], items[begins + 1 :]
    items[:] = [*(item for item in before if item not in free), *free, *(item for item in after if item not in free)]
