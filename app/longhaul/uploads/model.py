"""What an upload is: the records of the domain, and its errors."""

from __future__ import annotations

import base64
import re
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

PIECES = "uploads/"
"""What the names of all pieces in the store begin with."""


class State(StrEnum):
    """Life of an upload: receiving -> queued -> processing -> done or failed; or terminated or expired."""

    RECEIVING = "receiving"
    QUEUED = "queued"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"
    TERMINATED = "terminated"
    EXPIRED = "expired"

    @property
    def gone(self) -> bool:
        """Whether the upload was deleted or has expired."""
        return self in (State.TERMINATED, State.EXPIRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One row of `uploads`. `size` and `offset` in bytes; `metadata` as the client sent it (values in base64)."""

    id: str
    key: str
    owner: str
    filename: str
    content_type: str
    metadata: dict[str, str]
    size: int
    offset: int
    epoch: int
    state: State
    server: str
    receiver: str | None
    asked_epoch: int | None
    sha256: str | None
    expected_sha256: str | None
    detected_type: str | None
    progress: dict[str, Any] | None
    error: str | None
    attempt_id: uuid.UUID | None
    request_id: str | None
    version: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    completed_at: datetime | None
    finished_at: datetime | None

    @property
    def is_mismatched(self) -> bool:
        """Whether the content differs from what the sender says that it sent, as far as is known."""
        return None not in (self.sha256, self.expected_sha256) and self.sha256 != self.expected_sha256

    @property
    def has_content(self) -> bool:
        """Whether the content is complete, and the same as what was sent as far as is known."""
        return self.completed_at is not None and not self.state.gone and not self.is_mismatched

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Upload:
        """From `select * from uploads` with dict rows; columns added by a newer release are ignored."""
        values = {name: row[name] for name in cls.__slots__}
        values["state"] = State(values["state"])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """An immutable part of an upload, stored under `name`: bytes `start` to `start + length` of the content."""

    id: uuid.UUID
    upload_id: str
    start: int
    length: int
    epoch: int
    digests: bytes
    name: str

    @property
    def end(self) -> int:
        """First byte after the piece."""
        return self.start + self.length

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Piece:
        """From `select * from pieces` with dict rows."""
        return cls(**{name: row[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDigest:
    """SHA-256, in hexadecimal, of the bytes `start` to `start + length` of an upload."""

    start: int
    length: int
    sha256: str


def sha256_from(text: str) -> str:
    """A SHA-256 in lower case, from text in any case. Raises ValueError if it is not 64 hexadecimal digits."""
    digest = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"{text[:80]!r} is not a SHA-256: write its 64 hexadecimal digits")
    return digest


MISMATCH = (
    "What arrived is not the file that was sent: the file was changed during the upload, or damaged on the way. There"
    " are no results. Delete this upload, then send the file again."
)
"""What the user reads if the SHA-256 of the content is not what the sender said. The upload's page shows both."""


def new_upload_id() -> str:
    """80 random bits in 16 characters that are safe in URLs, command lines and logs."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


def new_key() -> str:
    """192 random bits: a client that knows the key may send, ask for the offset, and delete the upload."""
    return secrets.token_urlsafe(24)


def piece_name(upload_id: str, epoch: int, start: int, piece_id: uuid.UUID) -> str:
    """Object name of a piece; garbage collection reads upload and epoch from it (see `parse_piece_name`)."""
    return f"{piece_prefix(upload_id)}{epoch:012d}-{start:016d}-{piece_id.hex}"


def piece_prefix(upload_id: str) -> str:
    """What the names of all pieces of an upload begin with."""
    return f"{PIECES}{upload_id}/"


def parse_piece_name(name: str) -> tuple[str, int, uuid.UUID]:
    """Upload id, epoch and piece id of an object name. Raises ValueError if it is not a piece's."""
    folder, upload_id, last = name.split("/")
    epoch, _start, piece_id = last.split("-")
    if f"{folder}/" != PIECES:
        raise ValueError(f"{name!r} is not a piece")
    return upload_id, int(epoch), uuid.UUID(hex=piece_id)


class UploadError(Exception):
    """Something a client can act on; the text says what to do."""


class NotFound(UploadError):
    """There is no such upload, or the key is wrong."""


class Gone(UploadError):
    """The upload was terminated or has expired."""


class WrongOffset(UploadError):
    """The upload's offset is not the one that the client gave."""


class TooLarge(UploadError):
    """More bytes than announced, or than the server takes."""


class Mismatch(UploadError):
    """The sender's SHA-256 differs from that of the content, or from the one that it sent before."""


class TakenOver(UploadError):
    """Another connection took the upload over; nothing more can be committed here."""
