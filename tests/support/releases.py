"""Releases for tests: the newest one once more, under another version."""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from ops import release
from ops.release import Release


@contextmanager
def renamed(current: Release, version: str) -> Iterator[Release]:
    """A release that differs from `current` in nothing but its version; it ends with the block."""
    target = release.path_of(version)
    with tempfile.TemporaryDirectory(prefix="longhaul-renamed-") as name:
        content = Path(name)
        with (
            current.path.open("rb") as raw,
            zstandard.ZstdDecompressor().stream_reader(raw) as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            archive.extractall(content, filter="data")
        manifest = content / "manifest.json"
        described = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**described, "version": version}, indent=2) + "\n")
        release._pack(content, 0, target)
    try:
        yield release.find(version)
    finally:
        target.unlink()
