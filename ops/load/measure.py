"""What a load test has seen: every request's latency, what failed, and how the bytes went, second by second."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

FAILURES_KEPT = 100


class RequestKind(StrEnum):
    """Requests whose latency says something; that of a PATCH is the length of its body."""

    PAGE = "page"
    CREATE = "create"
    OFFSET = "offset"


@dataclass(frozen=True)
class Latency:
    """Of one kind of requests, in seconds."""

    requests: int
    median: float
    p95: float
    slowest: float


@dataclass
class Measure:
    """Filled while a load runs. Times are seconds since its beginning.

    `interruptions` are ends of a PATCH that the site made and a tus client goes on after (423, 409, a connection closed
    without an answer): what a hand-over looks like from outside. `resumed_after` are the seconds from each to the
    offset that the client goes on from. Everything else that is not as it should be is in `failures`.
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
        """Bytes that the client's kernel has taken."""
        self.sent[int(self.now())] += count

    def request(self, kind: RequestKind, began: float) -> None:
        """A request that was answered as it should be; `began` as `now` was when it was sent."""
        self.latencies[kind].append((began, self.now() - began))

    def failure(self, what: str) -> None:
        """Something that must not happen. The first ones are kept word by word, all are counted."""
        self.failed += 1
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append((self.now(), what))

    def latency(self, kind: RequestKind) -> Latency:
        """Of all requests of a kind; zeros if there was none."""
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
