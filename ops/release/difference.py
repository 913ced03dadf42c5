"""Says where two archives of releases first differ, in one line: that is what mends a build that is not reproducible.

diffoscope reports all differences instead: 3,754 lines for one changed line of a module, in the same time, and it needs
libmagic and zstd on the machine. It stays the tool to look further by hand.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import zstandard

from ops.artefact import manifest, sbom

HEADER = ("type", "mode", "mtime", "uid", "gid", "uname", "gname", "linkname", "pax_headers")
ZIP_HEADER = ("date_time", "compress_type", "create_system", "external_attr", "extra", "comment", "flag_bits")
DESCRIBING = (sbom.NAME, manifest.NAME)
"""Members that list other members, so they differ whenever one of those does: they are compared last, in this order."""
CONTEXT = 20
"""How many bytes are shown on each side of a difference."""


def first_difference(one: Path, other: Path) -> str:
    """Which member of two archives differs first, and in which field or byte; empty if the archives are equal."""
    packed = one.read_bytes(), other.read_bytes()
    if packed[0] == packed[1]:
        return ""
    try:
        tars = tuple(map(_decompressed, packed))
        members = tuple(map(_members, tars))
    except (zstandard.ZstdError, tarfile.TarError) as error:
        return f"one of them cannot be unpacked ({error}), and {_in_bytes('the archive', *packed)}"
    return (
        _in_order(list(members[0]), list(members[1]), "member")
        or _in_members(*members)
        or _in_bytes("the tar file", *tars)
        or _in_bytes(
            "the same tar file is compressed in different ways (version or level of zstd?): the archive", *packed
        )
    )


def _decompressed(packed: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(packed) as stream:
        return stream.read()


def _members(tar: bytes) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        found = {}
        for entry in archive:
            file = archive.extractfile(entry)
            found[entry.name] = (entry, file.read() if file else b"")
        return found


def _in_order(one: Iterable[str], other: Iterable[str], what: str) -> str:
    for number, (mine, others) in enumerate(zip_longest(one, other), 1):
        if mine != others:
            return f"{what} {number} is {mine or 'missing'} in one and {others or 'missing'} in the other"
    return ""


type Members = Mapping[str, tuple[tarfile.TarInfo, bytes]]


def _in_members(one: Members, other: Members) -> str:
    described = [name for name in one if name not in DESCRIBING]
    for name in [*described, *(name for name in DESCRIBING if name in one)]:
        (mine, content), (others, others_content) = one[name], other[name]
        found = _in_fields(name, HEADER, mine, others) or _in_content(name, content, others_content)
        if found:
            return found
    return ""


def _in_fields(name: str, fields: Iterable[str], one: object, other: object) -> str:
    for field in fields:
        mine, others = getattr(one, field), getattr(other, field)
        if mine != others:
            return f"{name}: its {field} is {mine!r} in one and {others!r} in the other"
    return ""


def _in_content(name: str, one: bytes, other: bytes) -> str:
    if one == other:
        return ""
    found = ""
    with suppress(zipfile.BadZipFile, zlib.error, ValueError):  # damaged: then by its bytes
        if name.endswith(".whl"):
            found = _in_zip(name, one, other)
        elif name.endswith(".json"):
            found = _in_json(name, json.loads(one), json.loads(other))
    return found or _in_bytes(name, one, other)


def _in_zip(name: str, one: bytes, other: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(one)) as mine, zipfile.ZipFile(io.BytesIO(other)) as others:
        if found := _in_order(mine.namelist(), others.namelist(), f"{name}: file"):
            return found
        # RECORD last: it lists the hashes of the other files.
        for inner in sorted(mine.namelist(), key=lambda inner: inner.endswith("/RECORD")):
            where = f"{name}: {inner}"
            found = _in_content(where, mine.read(inner), others.read(inner))
            found = found or _in_fields(where, ZIP_HEADER, mine.getinfo(inner), others.getinfo(inner))
            if found:
                return found
    return ""


def _in_json(where: str, one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        if found := _in_order(one, other, f"{where}: key"):
            return found
        return next(filter(None, (_in_json(f"{where}: {key}", one[key], other[key]) for key in one)), "")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next(filter(None, (_in_json(f"{where}[{index}]", *pair) for index, pair in pairs)), "")
    return f"{where} is {one!r} in one and {other!r} in the other" if one != other else ""


def _in_bytes(name: str, one: bytes, other: bytes) -> str:
    if one == other:
        return ""
    pairs = enumerate(zip(one, other, strict=False))
    at = next((index for index, (mine, others) in pairs if mine != others), min(len(one), len(other)))
    shown = (repr(content[max(0, at - CONTEXT) : at + CONTEXT])[1:] for content in (one, other))
    return f"{name} differs from byte {at} on: {next(shown)} in one, {next(shown)} in the other"
