"""The measurements of a load test: the latency of every request, failures, and bytes sent per second."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

FAILURES_KEPT = 100


class RequestKind(StrEnum):
    """Requests whose latency is measured. PATCH is not among them: its duration depends on the length of its body."""

    PAGE = "page"
    CREATE = "create"
    OFFSET = "offset"


@dataclass(frozen=True)
class Latency:
    """The latency of one kind of request, in seconds."""

    requests: int
    median: float
    p95: float
    slowest: float


@dataclass
class Measure:
    """Filled while a load runs. Times are seconds since its beginning.

    `interruptions`: times at which the site ended a PATCH in a way that lets a tus client continue (423, 409, or a
    connection closed without an answer), as a hand-over does. `resumed_after`: for each, the seconds until the client
    had the offset to continue from. `failures`: everything else that should not happen.
    """

    began: float = field(default_factory=time.monotonic)
    sent: Counter[int] = field(default_factory=Counter)
    latencies: dict[RequestKind, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    interruptions: list[float] = field(default_factory=list)
    resumed_after: list[float] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    failed: int = 0
    sent_again: int = 0
    created: int = 0
    done: int = 0
    cuts: int = 0
    stalls: int = 0

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def bytes_sent(self, count: int) -> None:
        """Count bytes that the client has handed to its kernel."""
        self.sent[int(self.now())] += count

    def request(self, kind: RequestKind, began: float) -> None:
        """Note a request that was answered correctly; `began` is the value of `now` when it was sent."""
        self.latencies[kind].append((began, self.now() - began))

    def failure(self, what: str) -> None:
        """Note something that must not happen. All failures are counted; the text is kept of the first ones only."""
        self.failed += 1
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append((self.now(), what))

    def latency(self, kind: RequestKind) -> Latency:
        """The latency of all requests of a kind; zeros if there was none."""
        seconds = sorted(length for _, length in self.latencies[kind])
        if not seconds:
            return Latency(0, 0, 0, 0)
        return Latency(len(seconds), quantile(seconds, 0.5), quantile(seconds, 0.95), seconds[-1])

    def latency_over_time(self, kind: RequestKind, fraction: float) -> dict[int, float]:
        """Second -> that quantile of the latencies of the requests that began in it."""
        buckets: dict[int, list[float]] = defaultdict(list)
        for began, length in self.latencies[kind]:
            buckets[int(began)].append(length)
        return {second: quantile(sorted(found), fraction) for second, found in sorted(buckets.items())}

    def summary(self) -> dict[str, object]:
        """Everything as values that JSON knows."""
        seconds = max(self.sent, default=0) + 1
        return {
            "seconds": round(self.now(), 1),
            "bytes_sent": self.sent.total(),
            "bytes_sent_again": self.sent_again,
            "bytes_per_second": [self.sent[second] for second in range(seconds)],
            "latency_seconds": {kind.value: asdict(self.latency(kind)) for kind in RequestKind},
            "uploads_created": self.created,
            "uploads_done": self.done,
            "cuts": self.cuts,
            "stalls": self.stalls,
            "interruptions": len(self.interruptions),
            "longest_until_resumed_seconds": max(self.resumed_after, default=0),
            "failed": self.failed,
            "failures": [{"second": round(at, 1), "what": what} for at, what in self.failures],
        }


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """The nearest-rank quantile of values in order."""
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]
