"""The checksum of one request's body, as the sender announced it (tus 1.0.0, extension Checksum)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

_SIZES = {name: hashlib.new(name, usedforsecurity=False).digest_size for name in ("sha1", "sha256")}
ALGORITHMS = tuple(_SIZES)
"""Names as tus writes them. SHA-1 is what every client must know; it finds damage, not malice."""


class Checksum:
    """The expected checksum of a body, and the checksum of its bytes so far."""

    def __init__(self, algorithm: str, digest: bytes) -> None:
        """`algorithm` is one of ALGORITHMS."""
        self._expected = digest
        self._hash = hashlib.new(algorithm, usedforsecurity=False)

    @classmethod
    def parse(cls, header: str) -> Checksum:
        """From the value of Upload-Checksum: the algorithm, a blank, the digest in base64. Raises ValueError."""
        algorithm, _, value = header.strip().partition(" ")
        if algorithm not in _SIZES:
            raise ValueError(f"the algorithm {algorithm[:40]!r} is not known: use one of {', '.join(ALGORITHMS)}")
        try:
            digest = base64.b64decode(value.strip(), validate=True)
        except binascii.Error:
            digest = b""
        if len(digest) != _SIZES[algorithm]:
            raise ValueError(
                f"{value[:100]!r} is not a digest of {algorithm}: write the {_SIZES[algorithm]} bytes in base64"
            )
        return cls(algorithm, digest)

    def update(self, data: bytes) -> None:
        """Add the next bytes of the body. Releases the interpreter lock while hashing."""
        self._hash.update(data)

    def matches(self) -> bool:
        """Whether the bytes so far have the announced checksum."""
        return hmac.compare_digest(self._hash.digest(), self._expected)
