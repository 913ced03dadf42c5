"""The content of test files, made on demand and not on disk: any part at any time, and different for each file."""

from __future__ import annotations

import hashlib
import random

BLOCK = 1 << 20
_COUNTER = 8


class Content:
    """`size` bytes that do not compress, the same for the same `seed`."""

    def __init__(self, size: int, seed: str) -> None:
        self.size = size
        # A block is its number, then always the same random bytes: that is enough for no two blocks to be equal.
        self._random = random.Random(seed).randbytes(BLOCK - _COUNTER)  # noqa: S311 - test data, not a secret

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on, no further than the end of a block of 1 MiB."""
        number, start = divmod(offset, BLOCK)
        end = min(start + length, BLOCK, self.size - number * BLOCK)
        return (number.to_bytes(_COUNTER) + self._random)[start:end]

    def sha256(self) -> str:
        """In hex."""
        digest = hashlib.sha256()
        for offset in range(0, self.size, BLOCK):
            digest.update(self.read(offset, BLOCK))
        return digest.hexdigest()
