"""Records of traces: the newest first, no more than are kept, and those whose command was killed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ops.errors import Failure
from ops.trace import trace_record as records
from ops.trace.trace_record import TraceRecord, TraceRecords


class Memory:
    """In place of etcd."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.away = False

    def put(self, key: str, text: str) -> None:
        if self.away:
            raise Failure("etcd does not answer.")
        self.texts[key] = text

    def list(self, folder: str) -> dict[str, str]:
        if self.away:
            raise Failure("etcd does not answer.")
        return dict(sorted((key, text) for key, text in self.texts.items() if key.startswith(folder)))

    def delete(self, key: str) -> None:
        del self.texts[key]


def record(number: int, *, at: datetime | None = None) -> TraceRecord:
    time = at or datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    return TraceRecord(
        f"t{number}", "the user ann", "bob@here", "why", time.isoformat(timespec="seconds"), 60, ["web1"]
    )


def test_the_newest_comes_first_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "KEPT", 3)
    kept = TraceRecords(Memory())  # type: ignore[arg-type]  # as much of a Store as is used
    for number in (2, 0, 3, 1, 4):
        kept.save(record(number))
    kept.prune()
    assert [each.id for each in kept.list()] == ["t4", "t3", "t2"]
    assert kept.list()[0] == record(4)


def test_a_trace_goes_on_without_etcd(capsys: pytest.CaptureFixture[str]) -> None:
    memory = Memory()
    memory.away = True
    kept = TraceRecords(memory)  # type: ignore[arg-type]  # as much of a Store as is used
    kept.save(record(1))
    kept.prune()
    assert "this trace is not recorded: etcd does not answer." in capsys.readouterr().err


def test_what_never_recorded_its_end_was_killed() -> None:
    assert record(1).end == "its command was killed"
    running = record(1, at=datetime.now(UTC))
    assert running.end == "running"
    running.ended = "Ctrl-C"
    assert running.end == "Ctrl-C"
