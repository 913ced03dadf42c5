"""The record of a deployment: who did what to an environment, step by step; kept in etcd, for all operators to see."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ops.console import console
from ops.deployment.lock import now, operator
from ops.deployment.store import Store
from ops.errors import Failure

DEPLOY = "deploy"
ROLLBACK = "rollback"
SHIP = "ship processors"
PACKAGES = "packages"
CONTRACT = "contract"
CHANGES_NO_RELEASE = {SHIP, PACKAGES, CONTRACT}
"""Operations that `deploy --resume` and `rollback` do not look at."""
FOLDER = "deployments/"
KEPT = 200

RUNNING = "running"
DONE = "done"
RETURNED = "returned"
"""It failed, and every host is back on what it had before."""
FAILED = "failed"
"""It failed, and not every host could be returned."""
INTERRUPTED = "interrupted"
OPEN = {RUNNING, FAILED, INTERRUPTED}
"""Results after which hosts may differ: the next deployment resumes this one, or goes back."""


@dataclass
class StepRecord:
    """One step: when it began (ISO 8601), how many seconds it took, and how it ended ("" while it runs)."""

    name: str
    began: str
    seconds: float = 0.0
    result: str = ""


@dataclass
class Record:
    """One deployment. `before`: host -> the version that the host ran when the deployment began."""

    id: str
    operation: str
    release: str
    reason: str
    by: str
    began: str
    ended: str = ""
    result: str = RUNNING
    message: str = ""
    hosts: list[str] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)

    @classmethod
    def new(cls, operation: str, release: str, reason: str) -> Record:
        """A record that begins now."""
        began = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"[:-3]
        return cls(id=began, operation=operation, release=release, reason=reason, by=operator(), began=now())

    @classmethod
    def from_text(cls, text: str) -> Record:
        """As `text` wrote it."""
        values: dict[str, Any] = json.loads(text)
        steps = [StepRecord(**step) for step in values.pop("steps")]
        return cls(**values, steps=steps)

    @property
    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @property
    def open_step(self) -> str:
        """The step at which it stopped, for messages."""
        return self.steps[-1].name if self.steps else "the beginning"


class Records:
    """The records of one environment. With `alone` (--without-lock: etcd does not answer) nothing is kept."""

    def __init__(self, store: Store, *, alone: bool = False) -> None:
        self._store = store
        self._alone = alone

    def save(self, record: Record) -> None:
        """Keep the present state of a record."""
        if not self._alone:
            self._store.put(FOLDER + record.id, record.text)

    def save_if_possible(self, record: Record) -> None:
        """Save how something ended. If etcd does not answer, print that; it is no reason to fail."""
        try:
            self.save(record)
        except Failure as failure:
            console.print(f"the record of '{record.open_step}' is not kept: {failure.message}", markup=False)

    def list(self) -> list[Record]:
        """All that are kept, the newest first."""
        if self._alone:
            return []
        return [Record.from_text(text) for text in reversed(self._store.list(FOLDER).values())]

    def of_releases(self) -> Sequence[Record]:
        """The records of operations that brought a release to hosts, the newest first."""
        return [record for record in self.list() if record.operation not in CHANGES_NO_RELEASE]

    def unfinished(self) -> Record | None:
        """The newest record of an operation that brought a release to hosts, if hosts may differ since."""
        newest = next(iter(self.of_releases()), None)
        return newest if newest is not None and newest.result in OPEN else None

    def prune(self) -> None:
        """Forget the oldest beyond KEPT."""
        for record in self.list()[KEPT:]:
            self._store.delete(FOLDER + record.id)

    @contextmanager
    def whole(self, record: Record) -> Iterator[None]:
        """Save how the block ended. After a Failure the result is RETURNED, unless the block has set another one."""
        try:
            yield
            record.result = DONE
        except KeyboardInterrupt:
            record.result, record.message = INTERRUPTED, f"interrupted in '{record.open_step}'"
            raise
        except Failure as failure:
            if record.result == RUNNING:
                record.result = RETURNED
            record.message = f"{failure.message} {failure.hint}".strip()
            raise
        except BaseException as error:
            record.result, record.message = FAILED, f"{type(error).__name__}: {error}"
            raise
        finally:
            record.ended = now()
            self.save_if_possible(record)

    @contextmanager
    def step(self, record: Record, name: str) -> Iterator[None]:
        """Save when the block began and how it ended."""
        step = StepRecord(name, now())
        record.steps.append(step)
        self.save(record)
        began = time.monotonic()
        step.result = "failed"
        try:
            yield
            step.result = "done"
        except KeyboardInterrupt:
            step.result = INTERRUPTED
            raise
        except Failure as failure:
            step.result = f"failed: {failure.message[:500]}"
            raise
        finally:
            step.seconds = round(time.monotonic() - began, 1)
            self.save_if_possible(record)
