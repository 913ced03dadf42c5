"""Which workers get processors: those that have others, and those at which an earlier run was cut off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from ops.deployment import processors
from ops.deployment import record as records
from ops.deployment.record import Record
from ops.deployment.releases import Releases
from ops.environment import Environment
from ops.errors import Failure

VERSION = "20260101T000000-aaaaaaaaaaaa"
WORKERS = ["worker1", "worker2"]


class Site:
    """Workers that use what they are told, and the records of who told them, the newest first."""

    def __init__(self) -> None:
        self.uses = dict.fromkeys(WORKERS, VERSION)
        self.records: list[Record] = []
        self.shipped: list[str] = []
        self.broken = ""

    def list(self) -> list[Record]:
        return self.records

    def save(self, record: Record) -> None:
        if record not in self.records:
            self.records.insert(0, record)

    def began(self, result: str, *hosts: str, operation: str = records.SHIP) -> None:
        """An earlier run is in the records."""
        self.records.insert(0, replace(Record.new(operation, VERSION, ""), hosts=list(hosts), result=result))

    def deployment(self, _environment: object, hosts: list[Any], record: Record, *_: object) -> Any:
        site = self

        class Deployment:
            def ship(self, *_: object) -> None:
                site.shipped += [host.name for host in hosts]
                site.save(record)
                record.result = records.RETURNED if site.broken else records.DONE
                if site.broken:
                    raise Failure(site.broken)

        return Deployment()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site()

    @contextmanager
    def held(*_: object) -> Iterator[None]:
        yield

    def ask(_environment: object, hosts: list[Any]) -> dict[str, Releases]:
        return {host.name: Releases(host.name, "r", "", ["r"], {}, made.uses[host.name]) for host in hosts}

    monkeypatch.setattr(processors.releases, "ask", ask)
    monkeypatch.setattr(processors, "Store", lambda _environment: None)
    monkeypatch.setattr(processors, "Records", lambda _store: made)
    monkeypatch.setattr(processors, "Deployment", made.deployment)
    monkeypatch.setattr(processors.lock, "held", held)
    return made


def ship(version: str = VERSION) -> None:
    processors.change(Environment.of_checkout("lab"), version, None, yes=True)


def test_workers_that_have_it_are_left_alone(site: Site) -> None:
    site.uses["worker2"] = ""
    site.began(records.DONE, *WORKERS)
    ship()
    assert site.shipped == ["worker2"]


@pytest.mark.parametrize("result", [records.RUNNING, records.INTERRUPTED, records.FAILED])
def test_what_a_run_that_was_cut_off_has_left_is_proven(site: Site, result: str) -> None:
    site.began(records.DONE, *WORKERS)
    site.began(result, "worker1")
    ship()
    assert site.shipped == ["worker1"]


def test_so_are_the_release_s_own(site: Site) -> None:
    site.uses = dict.fromkeys(WORKERS, "")
    site.began(records.RUNNING, "worker2")
    ship("")
    assert site.shipped == ["worker2"]


@pytest.mark.parametrize("result", [records.DONE, records.RETURNED])
def test_what_came_to_its_end_since_counts(site: Site, result: str) -> None:
    site.began(records.RUNNING, *WORKERS)
    site.began(result, *WORKERS)
    site.began(records.RUNNING, *WORKERS, operation=records.PACKAGES)
    ship()
    assert site.shipped == []


def test_a_worker_that_cannot_be_proven_stays_to_be_proven(site: Site) -> None:
    """What it used before is not known any more."""
    site.began(records.RUNNING, "worker1")
    site.broken = "worker1 did not work with them"
    for _ in range(2):
        with pytest.raises(Failure, match="worker1 did not work") as failed:
            ship()
        assert "./inv processors.revert --env=lab" in failed.value.hint
    assert site.shipped == ["worker1", "worker1"]
    assert site.records[0].result == records.FAILED
