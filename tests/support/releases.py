"""Releases for tests: an existing one once more, under another version and with something changed in it."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from ops import release
from ops.release import Release


def unchanged(_content: Path) -> None:
    """The content stays as it is."""


@contextmanager
def altered(current: Release, version: str, change: Callable[[Path], None] = unchanged) -> Iterator[Release]:
    """A release that differs from `current` in its version and in what `change` does to its unpacked folder.

    It ends with the block.
    """
    target = release.path_of(version)
    with tempfile.TemporaryDirectory(prefix="longhaul-altered-") as name:
        content = Path(name)
        with (
            current.path.open("rb") as raw,
            zstandard.ZstdDecompressor().stream_reader(raw) as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            archive.extractall(content, filter="data")
        change(content)
        manifest = content / "manifest.json"
        described = json.loads(manifest.read_text())
        manifest.unlink()
        files = {
            path.relative_to(content).as_posix(): {
                "size": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in sorted(content.rglob("*"))
            if path.is_file()
        }
        manifest.write_text(json.dumps({**described, "version": version, "files": files}, indent=2) + "\n")
        release._pack(content, 0, target)
    try:
        yield release.find(version)
    finally:
        target.unlink()


def in_wheel(file: str, edit: Callable[[str], str]) -> Callable[[Path], None]:
    """A change to one file of the application's wheel; a file that is not there is edited from nothing."""

    def change(content: Path) -> None:
        (wheel,) = (content / "wheels").glob("longhaul-*.whl")
        with zipfile.ZipFile(wheel) as old:
            members = {name: old.read(name) for name in old.namelist()}
        text = members.get(file, b"").decode()
        assert edit(text) != text, f"the change to {file} changes nothing"
        members[file] = edit(text).encode()
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as new:
            for name, data in members.items():
                new.writestr(name, data)

    return change
