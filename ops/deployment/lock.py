"""The lock of an environment: one change at a time, and everybody can see who makes it.

The lock is a key in etcd with a lease, which this process renews. If the process dies, the lock ends by itself within
LEASE_SECONDS, and the record says what can be resumed. Each step begins with `check`, so a process that has lost the
lock (after a long network outage, or because somebody broke it) does nothing more.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from ops.console import console
from ops.deployment.store import NotThereYet, Store
from ops.errors import Exit, Failure

LEASE_SECONDS = 60
RENEW_SECONDS = 15
KEY = "lock"
HOLDERS = "locks/"


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, what for, and since when (ISO 8601)."""

    owner: str
    reason: str
    since: str

    def __str__(self) -> str:
        return f"{self.owner} since {self.since}, for: {self.reason}"


def operator() -> str:
    """The person at this terminal, as others know them: user@machine."""
    return f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}"


def now() -> str:
    """The time as records show it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Lock:
    """The lock, held."""

    def __init__(self, store: Store, lease: str) -> None:
        self._store = store
        self._lease = lease
        self._renewed = time.monotonic()
        self._lost = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises Failure if the lock is lost."""
        if not self._lost and time.monotonic() - self._renewed > LEASE_SECONDS:
            self._lost = f"etcd could not be reached for {LEASE_SECONDS} s"
        if self._lost:
            raise Failure(
                f"The lock on the environment is lost ({self._lost}): somebody else may be changing it. This command "
                "stops here.",
                "See who: ./inv lock.show. Then run the same command again; after a deployment: ./inv deploy --resume, "
                "or ./inv rollback.",
                Exit.UNAVAILABLE,
            )

    def release(self) -> None:
        """Give the lock back. If etcd cannot be reached, it ends by itself."""
        self._end.set()
        self._thread.join()
        with suppress(Failure):
            self._store.revoke(self._lease)

    def _renew(self) -> None:
        while not self._end.wait(RENEW_SECONDS):
            asked = time.monotonic()
            try:
                alive = self._store.renew(self._lease)
            except Failure:
                continue  # `check` decides when this has lasted too long
            if not alive:
                self._lost = "it was broken, or it expired"
                return
            self._renewed = asked


@contextmanager
def held(store: Store, reason: str) -> Iterator[Lock]:
    """Hold the lock for the block. Raises Failure (Exit.TEMPORARY) that names the holder, and what the store raises."""
    lease = store.grant(LEASE_SECONDS)
    store.put(HOLDERS + lease, json.dumps(asdict(Holder(operator(), reason, now()))), lease=lease)
    if not store.create(KEY, lease, lease=lease):
        holder = current(store)
        store.revoke(lease)
        raise Failure(
            f"The environment is locked by {holder or 'somebody who is just releasing it'}.",
            f"Wait for them. If that process is dead, the lock ends by itself within {LEASE_SECONDS} s; "
            "./inv lock.break removes it at once.",
            Exit.TEMPORARY,
        )
    lock = Lock(store, lease)
    try:
        yield lock
    finally:
        lock.release()


def held_if_there(stack: ExitStack, store: Store, reason: str) -> Lock | None:
    """The lock, held until the stack ends; None on an environment that was never provisioned."""
    try:
        return stack.enter_context(held(store, reason))
    except NotThereYet:
        console.print("No lock yet: this environment is new.")
        return None


def current(store: Store) -> Holder | None:
    """Who holds the lock now."""
    lease = store.get(KEY)
    text = store.get(HOLDERS + lease) if lease else None
    return Holder(**json.loads(text)) if text else None


def seconds_left(store: Store) -> int:
    """In how many seconds the lock ends if its holder does not renew it."""
    lease = store.get(KEY)
    return store.seconds_left(lease) if lease else 0


def break_lock(store: Store) -> Holder | None:
    """Remove the lock, and return who held it."""
    holder = current(store)
    if lease := store.get(KEY):
        store.revoke(lease)
    return holder
