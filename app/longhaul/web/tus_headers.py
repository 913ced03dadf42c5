"""What a client announces in the headers of a tus request: size, metadata, checksums."""

from __future__ import annotations

import base64
import binascii

from starlette.datastructures import Headers

from longhaul.uploads.checksum import ALGORITHMS, Checksum
from longhaul.uploads.model import sha256_from
from longhaul.web.tus_exchange import Refusal

METADATA_BYTES = 8192
SHA256_METADATA = "sha256"
"""Key of an upload's metadata: SHA-256 of the whole content in hexadecimal."""


def announced_size(headers: Headers, largest: int) -> int:
    """Bytes of the whole content, at most `largest`. Raises Refusal."""
    if "upload-defer-length" in headers:
        raise Refusal(400, "Upload-Defer-Length is not supported: send the size as Upload-Length")
    text = headers.get("upload-length")
    if text is None:
        raise Refusal(400, "Upload-Length is missing: send the size of the file in bytes")
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise Refusal(400, f"Upload-Length {text[:40]!r} is not a number of bytes: send digits only, 0 or more")
    if int(text) > largest:
        raise Refusal(
            413,
            f"the file is too large: {text} bytes, and this server takes at most {largest} in one upload",
            {"Tus-Max-Size": str(largest)},
        )
    return int(text)


def parse_metadata(header: str) -> dict[str, str]:
    """Upload-Metadata as name -> base64 value. Raises Refusal for a malformed one."""
    if len(header) > METADATA_BYTES:
        raise Refusal(400, f"Upload-Metadata has {len(header)} characters: send at most {METADATA_BYTES}")
    metadata: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in header.split(","))):
        name, _, value = pair.partition(" ")
        try:
            decoded = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise Refusal(
                400, f"Upload-Metadata: the value of {name[:40]!r} is not base64; send pairs 'name base64(value)'"
            ) from None
        if not name.isascii() or name in metadata:
            raise Refusal(400, f"Upload-Metadata: {name[:40]!r} is not ASCII or is given twice")
        if b"\0" in decoded:
            raise Refusal(400, f"Upload-Metadata: the value of {name[:40]!r} contains a null byte")
        metadata[name] = value
    return metadata


def announced_checksum(headers: Headers) -> Checksum | None:
    """The announced checksum of the body, or None. Raises Refusal."""
    if (header := headers.get("upload-checksum")) is None:
        return None
    try:
        return Checksum.parse(header)
    except ValueError as error:
        raise Refusal(400, f"Upload-Checksum: {error}", {"Tus-Checksum-Algorithm": ",".join(ALGORITHMS)}) from None


def expected_sha256(metadata: dict[str, str]) -> str | None:
    """The announced SHA-256 of the whole content, or None. Raises Refusal."""
    if SHA256_METADATA not in metadata:
        return None
    try:
        return sha256_from(base64.b64decode(metadata[SHA256_METADATA]).decode("utf-8", errors="replace"))
    except ValueError as error:
        raise Refusal(400, f"Upload-Metadata, {SHA256_METADATA}: {error}") from None


def text_of(metadata: dict[str, str], *names: str) -> str:
    """The first of these names that is given, as text without control characters, at most 255 characters long."""
    for name in names:
        if value := metadata.get(name):
            text = base64.b64decode(value).decode("utf-8", errors="replace")
            return "".join(letter for letter in text if letter.isprintable())[:255]
    return ""
