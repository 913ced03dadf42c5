"""The archive of a release: a tar file compressed with zstd; equal content gives equal bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import zstandard

from ops.errors import Exit, Failure

ZSTD_VERSION = (1, 5, 7)
"""The version of the compressor: another one gives other bytes. The locked zstandard wheel brings it; change this
together with that lock."""
COMPRESSION_LEVEL = 10


def pack(content: Path, seconds: int, target: Path) -> None:
    """Write the files of a folder: sorted names, one time (in seconds since 1970), one mode, no owners.

    Raises Failure if the compressor has another version than the locked one.
    """
    if zstandard.ZSTD_VERSION != ZSTD_VERSION:
        found, wanted = (".".join(map(str, version)) for version in (zstandard.ZSTD_VERSION, ZSTD_VERSION))
        raise Failure(
            f"This Python compresses with zstd {found}, and releases are compressed with zstd {wanted}.",
            "Run ./inv, which installs requirements.txt. If requirements.txt itself has the other version, change "
            "ops/artefact/archive.py too.",
            Exit.UNAVAILABLE,
        )
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=True)
    with (
        target.open("wb") as raw,
        compressor.stream_writer(raw, closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in files(content):
            entry = tarfile.TarInfo(path.relative_to(content).as_posix())
            data = path.read_bytes()
            entry.size, entry.mtime, entry.mode = len(data), seconds, 0o644
            archive.addfile(entry, io.BytesIO(data))


def unpack(archive: Path, content: Path) -> None:
    """Unpack an archive into a folder."""
    with (
        archive.open("rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as stream,
        tarfile.open(fileobj=stream, mode="r|") as members,
    ):
        members.extractall(content, filter="data")


def files(content: Path) -> Iterator[Path]:
    """The files of a folder, in the order of the archive."""
    return (path for path in sorted(content.rglob("*")) if path.is_file())
