"""Releases for tests: an existing one once more, under another version and with something changed in it."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ops import release
from ops.artefact import archive, manifest
from ops.paths import ROOT
from ops.release import provenance, signature
from ops.release.source import Source

BUILT_AT = 0
"""Seconds since 1970: the same for all of them."""


def unchanged(_content: Path) -> None:
    """The content stays as it is."""


@contextmanager
def altered(
    current: release.Release, version: str, change: Callable[[Path], None] = unchanged
) -> Iterator[release.Release]:
    """A release that differs from `current` in its version and in what `change` does to its unpacked folder.

    Its manifest is right, and it is signed with the lab's key. It ends with the block.
    """
    with tempfile.TemporaryDirectory(prefix="longhaul-altered-") as name, signature.signing_key(for_lab=True) as key:
        content, made = Path(name) / "content", Path(name) / "archive"
        content.mkdir()
        archive.unpack(current.path, content)
        change(content)
        described = json.loads((content / manifest.NAME).read_text())
        del described["files"]
        manifest.write(content, **{**described, "version": version})
        archive.pack(content, BUILT_AT, made)
        source = Source(version, described["commit"], BUILT_AT, current.version, described["commit"], dirty=True)
        built = release.publish(made, source, {}, key, began=provenance.now(), tree=ROOT)
    try:
        yield built
    finally:
        for path in release.parts(version):
            path.unlink(missing_ok=True)


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
