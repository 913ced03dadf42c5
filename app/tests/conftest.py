"""Fixtures that all tests share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from longhaul import schema
from longhaul.settings import Settings
from ops.throwaway_postgresql import ThrowawayPostgresql, throwaway_postgresql
from tests import processes
from tests.processes import Web
from tests.served import Site, served

# The same examples in each run: a failure in CI is the failure that one gets here. LONGHAUL_SOAK=1 looks for new ones.
SOAK = os.environ.get("LONGHAUL_SOAK") == "1"
_common = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
settings.register_profile("ci", settings(_common, derandomize=True, max_examples=60))
settings.register_profile("soak", settings(_common, derandomize=False, max_examples=2000))
settings.load_profile("soak" if SOAK else "ci")

LONGEST = "test_whatever_happens_no_acknowledged_byte_is_lost"

_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the first test that takes nearly all of a soak to the beginning and the other to the end.

    A worker has the next test in hand already: neighbours never run beside each other.
    """
    if SOAK:
        longest = [item for item in items if item.name.startswith(LONGEST)]
        items[:] = [*longest[:1], *(item for item in items if item not in longest), *longest[1:]]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[ThrowawayPostgresql]:
    """A server whose database `longhaul` has the schema and stays empty: databases are copied from it."""
    with throwaway_postgresql() as server:
        schema.migrate(Settings(database=server.conninfo, store="directory:/nowhere"))
        yield server


@pytest.fixture(scope="session")
def new_database(postgresql: ThrowawayPostgresql) -> NewDatabase:
    """Makes databases with the schema."""
    return NewDatabase(postgresql)


@pytest.fixture
def conninfo(new_database: NewDatabase) -> str:
    """Connects to a database of this test's own."""
    return new_database()


@pytest.fixture(scope="module")
def site(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A web process that the tests of a module share."""
    with served(new_database(), tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase) -> Iterator[processes.Site]:
    """Two processes that no test of this module stops."""
    with processes.site(
        tmp_path_factory.mktemp("site"), new_database(), max_upload_bytes="200000000", piece_seconds="2"
    ) as made:
        made.web("web1")
        made.web("web2")
        yield made


@pytest.fixture
def web(pair: processes.Site) -> Web:
    return pair.webs[0]


@pytest.fixture
def other(pair: processes.Site) -> Web:
    return pair.webs[1]


class NewDatabase:
    """Copies the database that has the schema."""

    def __init__(self, server: ThrowawayPostgresql) -> None:
        self.server = server

    def __call__(self) -> str:
        """Make one, and return how to connect to it as the application does."""
        name = f"test_{next(_numbers)}"
        self.server.sql(f"create database {name} template longhaul owner longhaul")
        return self.server.conninfo.replace("dbname=longhaul", f"dbname={name}")


@pytest.fixture
def store_root(tmp_path: Path) -> Path:
    """An empty folder for a directory store."""
    root = tmp_path / "store"
    root.mkdir()
    return root
