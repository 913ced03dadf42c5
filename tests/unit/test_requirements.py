"""What changed between two states of the locks."""

from __future__ import annotations

import json
from pathlib import Path

from ops.paths import ROOT
from ops.requirements import NPM_LOCK, LockedVersion, changes, versions


def test_versions_of_a_python_lock(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(
        "# by uv\naiohttp==3.14.5 \\\n    --hash=sha256:abc\n    # via x==1\n"
        "colorama==0.4.6 ; sys_platform == 'win32' \\\n    --hash=sha256:def\n"
    )
    assert versions(lock) == {"aiohttp": "3.14.5", "colorama": "0.4.6"}


def test_versions_of_an_npm_lock(tmp_path: Path) -> None:
    lock = tmp_path / "package-lock.json"
    packages = {
        "": {"name": "own", "version": "1"},
        "node_modules/a": {"version": "2.0.0"},
        "node_modules/a/node_modules/@b/c": {"version": "3.0.0"},
        "node_modules/link": {"link": True},
    }
    lock.write_text(json.dumps({"packages": packages}))
    assert versions(lock) == {"a": "2.0.0", "a/node_modules/@b/c": "3.0.0"}


def test_the_locks_of_this_repository_are_read() -> None:
    for path in (ROOT / "requirements.txt", ROOT / "app" / "requirements.txt", NPM_LOCK):
        assert len(versions(path)) > 3, path


def test_changes_are_what_came_what_went_and_what_differs() -> None:
    before = {"one": {"a": "1", "b": "1", "c": "1"}, "two": {"a": "1"}}
    after = {"one": {"a": "1", "b": "2", "d": "1"}, "two": {"a": "1"}}
    assert changes(before, after) == [
        LockedVersion("one", "b", "1", "2"),
        LockedVersion("one", "c", "1", ""),
        LockedVersion("one", "d", "", "1"),
    ]
    assert changes(before, before) == []
