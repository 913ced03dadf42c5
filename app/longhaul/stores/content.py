"""Writing objects with digests, and reading them with proof that nothing has changed.

Each object has a list of SHA-256 digests, one per block of 1 MiB (the last may be shorter), kept in the database as one
byte string. So any range can be read and verified block by block, in constant memory.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from longhaul import logs
from longhaul.stores.interface import Corrupt, ObjectMissing, Store, StoreError

log = logs.get(__name__)

BLOCK = 1 << 20
DIGEST = 32
READ_TRIES = 5
"""Swift reads from any replica, so another try may find a good copy."""

hashing = ThreadPoolExecutor(max_workers=2, thread_name_prefix="digest")


class Digests:
    """SHA-256 of each block of a byte stream."""

    def __init__(self) -> None:
        self.length = 0
        self._done = bytearray()
        self._block = hashlib.sha256()

    def update(self, data: bytes) -> None:
        """Add the next bytes. Releases the interpreter lock while hashing."""
        view = memoryview(data)
        while view:
            room = BLOCK - self.length % BLOCK
            part = view[:room]
            self._block.update(part)
            self.length += len(part)
            view = view[room:]
            if self.length % BLOCK == 0:
                self._done += self._block.digest()
                self._block = hashlib.sha256()

    def value(self) -> bytes:
        """Digests of all blocks so far, the last one included."""
        return bytes(self._done) + (self._block.digest() if self.length % BLOCK else b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A durable object: size in bytes, digests per MiB, and hexadecimal SHA-256 of the whole."""

    name: str
    size: int
    digests: bytes
    sha256: str


async def store_file(store: Store, name: str, path: Path) -> Stored:
    """Store a local file under `name`. Raises StoreError or OSError."""
    loop = asyncio.get_running_loop()
    digests = Digests()
    whole = hashlib.sha256()
    sink = store.sink(name)
    try:
        with path.open("rb") as file:  # opening is quick; reading goes through the executor
            while data := await loop.run_in_executor(hashing, file.read, BLOCK):
                await loop.run_in_executor(hashing, digests.update, data)
                await loop.run_in_executor(hashing, whole.update, data)
                await sink.write(data)
        await sink.close()
    except BaseException:
        await sink.abort()
        raise
    return Stored(name=name, size=digests.length, digests=digests.value(), sha256=whole.hexdigest())


async def read_verified(
    store: Store, name: str, size: int, digests: bytes, *, start: int = 0, length: int | None = None
) -> AsyncIterator[bytes]:
    """Bytes `start` to `start + length` of an object of `size` bytes, in parts of at most 1 MiB, each verified.

    Raises ObjectMissing, StoreError, or Corrupt when no copy matches after several tries.
    """
    end = size if length is None else start + length
    if not 0 <= start <= end <= size:
        raise ValueError(f"bytes {start} to {end} of {size}")
    position = start
    failures = 0
    while position < end:
        aligned = position - position % BLOCK
        try:
            async for block in _blocks(store, name, size=size, digests=digests, start=aligned, end=end):
                yield block[position - aligned : end - aligned]
                aligned += len(block)
                position = min(aligned, end)
                failures = 0
        except ObjectMissing:
            raise
        except StoreError as error:
            failures += 1
            log.warning("reading again", extra={"object": name, "position": position, "error": str(error)})
            if failures >= READ_TRIES:
                raise
            await asyncio.sleep(0.1 * 2**failures)


async def _blocks(store: Store, name: str, *, size: int, digests: bytes, start: int, end: int) -> AsyncIterator[bytes]:
    """Whole blocks from `start` (a block boundary) until `end` is covered. Raises Corrupt at the first bad one."""
    loop = asyncio.get_running_loop()
    stop = min(size, -(-end // BLOCK) * BLOCK)
    pending = bytearray()
    position = start
    async for part in store.read(name, start, stop - start):
        pending += part
        while len(pending) >= (wanted := min(BLOCK, stop - position)) > 0:
            block = bytes(pending[:wanted])
            del pending[:wanted]
            number = position // BLOCK
            digest = await loop.run_in_executor(hashing, _sha256, block)
            if digest != digests[number * DIGEST : (number + 1) * DIGEST]:
                raise Corrupt(f"{name}: bytes {position} to {position + wanted} are not what was stored")
            yield block
            position += wanted
    if position < stop:
        raise StoreError(f"{name} ended after {position} of {stop} bytes")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
