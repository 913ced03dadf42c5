"""What the application needs of a store, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


class StoreError(Exception):
    """The store cannot do it now; what was being written does not exist, or may and is garbage. Try again."""


class ObjectMissing(StoreError):
    """There is no object of that name."""


class Corrupt(StoreError):
    """No copy with the recorded digests could be read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in a listing; size in bytes."""

    name: str
    size: int


class Sink(Protocol):
    """One object on its way into the store. After an error, only `abort` may be called."""

    async def write(self, data: bytes) -> None:
        """Append. Returns when the store can take more. Raises StoreError."""

    async def close(self) -> None:
        """Finish the object. Returns when it is durable as the store promises it. Raises StoreError."""

    async def abort(self) -> None:
        """Give the object up; safe at any time, never raises, leaves at most garbage."""


class Store(Protocol):
    """Immutable objects by name. Names are ASCII, with `/` as separator, and are never used twice."""

    def sink(self, name: str) -> Sink:
        """Begin a new object. Nothing is sent before the first write or close."""

    def read(self, name: str, start: int, length: int) -> AsyncIterator[bytes]:
        """Bytes `start` to `start + length` in parts of any size, unverified: see `content.read_verified`.

        Raises ObjectMissing, or StoreError. Calling again may read another copy.
        """

    def list(self, prefix: str) -> AsyncIterator[Entry]:
        """All objects whose name begins with `prefix`, by name; an object stored meanwhile may be missing."""

    async def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error. Raises StoreError."""

    async def close(self) -> None:
        """Let go of connections."""
