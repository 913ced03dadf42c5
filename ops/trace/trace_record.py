"""The record of a trace: who looked at what, why, and how much; kept in etcd, for all operators to see."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from ops.console import console
from ops.deployment.store import Store
from ops.errors import Failure

FOLDER = "traces/"
KEPT = 200
RUNNING = "running"
KILLED_SECONDS = 60
"""So long after its limit, a trace that has not recorded its end cannot run any more."""


@dataclass
class TraceRecord:
    """One trace. `began` is in ISO 8601; `seconds` it took, at most `limit`; `ended` says why it ended, or RUNNING."""

    id: str
    what: str
    by: str
    reason: str
    began: str
    limit: int
    hosts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    lines: int = 0
    dropped: int = 0
    ended: str = RUNNING

    @property
    def end(self) -> str:
        """Why it ended, or that it runs."""
        age = datetime.now(UTC) - datetime.fromisoformat(self.began)
        killed = self.ended == RUNNING and age.total_seconds() > self.limit + KILLED_SECONDS
        return "its command was killed" if killed else self.ended


class TraceRecords:
    """The records of one environment."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, record: TraceRecord) -> None:
        """Keep the present state. If etcd does not answer, print that: what is broken must still be seen."""
        try:
            self._store.put(f"{FOLDER}{record.began} {record.id}", json.dumps(asdict(record)))
        except Failure as failure:
            console.print(f"this trace is not recorded: {failure.message}", markup=False)

    def list(self) -> list[TraceRecord]:
        """All that are kept, the newest first. Raises Failure if etcd does not answer."""
        return [TraceRecord(**json.loads(text)) for text in reversed(self._store.list(FOLDER).values())]

    def prune(self) -> None:
        """Forget the oldest beyond KEPT, unless etcd does not answer."""
        try:
            keys = list(self._store.list(FOLDER))
            for key in keys[: max(0, len(keys) - KEPT)]:
                self._store.delete(key)
        except Failure:
            return
