"""The interface of a store: what the application needs, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


class StoreError(Exception):
    """The store cannot do it now: try again. An object that was being written is missing, or is garbage."""


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
        """Finish the object. Returns when it is as durable as the store promises. Raises StoreError."""

    async def abort(self) -> None:
        """Discard the object. May be called at any time, never raises, leaves at most garbage."""


class Store(Protocol):
    """Immutable objects by name. Names are ASCII, with `/` as separator, and are never used twice."""

    def sink(self, name: str) -> Sink:
        """Begin a new object. Nothing is sent before the first write or close."""

    def read(self, name: str, start: int, length: int) -> AsyncIterator[bytes]:
        """Bytes `start` to `start + length` in parts of any size, unverified: see `content.read_verified`.

        Raises ObjectMissing, or StoreError. Calling again may read another copy.
        """

    def list(self, prefix: str) -> AsyncIterator[Entry]:
        """All objects whose names begin with `prefix`, sorted. An object that is stored meanwhile may be missing."""

    async def delete(self, name: str) -> None:
        """Remove an object; a missing one is not an error. Raises StoreError."""

    async def close(self) -> None:
        """Close all connections."""
