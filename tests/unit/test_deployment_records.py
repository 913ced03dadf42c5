"""The lock and the records of deployments, in a store in memory."""

from __future__ import annotations

import pytest

from ops.deployment import lock
from ops.deployment import record as records
from ops.deployment.record import Record, Records
from ops.errors import Exit, Failure
from tests.support.fleet import NEW, Memory, store


class TestLock:
    def test_one_holder_at_a_time(self) -> None:
        memory = Memory()
        with lock.held(store(memory), "first"):
            with pytest.raises(Failure, match="for: first") as refused, lock.held(store(memory), "second"):
                pass
            assert refused.value.code == Exit.TEMPORARY
            assert lock.operator() in refused.value.message
        assert not memory.keys
        with lock.held(store(memory), "third"):
            assert "third" in str(lock.current(store(memory)))

    def test_a_holder_whose_lock_was_broken_stops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lock, "RENEW_SECONDS", 0.01)
        memory = Memory()
        with lock.held(store(memory), "first") as first:
            first.check()
            broken = lock.break_lock(store(memory))
            assert broken is not None
            assert broken.reason == "first"
            first._thread.join(10)
            with pytest.raises(Failure, match="lost"):
                first.check()
            with lock.held(store(memory), "second") as second:
                second.check()
                first.release()
                assert lock.current(store(memory)) is not None, "the first must not free the second's lock"

    def test_a_holder_that_cannot_renew_stops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lock, "RENEW_SECONDS", 0.01)
        memory = Memory()
        with lock.held(store(memory), "first") as held:
            memory.away = True
            held.check()
            monkeypatch.setattr(lock, "LEASE_SECONDS", -1)
            with pytest.raises(Failure, match="could not be reached"):
                held.check()


class TestRecords:
    def test_survive_as_text(self) -> None:
        record = Record.new("deploy", NEW, 'it\'s "quoted"')
        record.steps.append(records.StepRecord("install", lock.now(), 1.5, "done"))
        assert Record.from_text(record.text) == record

    def test_the_oldest_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(records, "KEPT", 2)
        memory = Memory()
        kept = Records(store(memory))
        for number in range(4):
            record = Record.new("deploy", NEW, "")
            record.id = f"2026010{number}"
            kept.save(record)
        kept.prune()
        assert [record.id for record in kept.list()] == ["20260103", "20260102"]
