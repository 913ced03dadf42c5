"""The package cache's folders: one cache each, and packages that are whole are shared."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from ops.lab import cache
from ops.lab.cache import Cache
from ops.lab.place import Place
from ops.lab.sources import Mirror


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of stores, whose account is that of the test."""
    monkeypatch.setattr(cache, "APT_CACHE", tmp_path)
    monkeypatch.setattr(cache.pwd, "getpwnam", lambda name: pwd.getpwuid(os.geteuid()))
    return tmp_path


def package(store: Path, name: str, content: bytes, announced: int) -> Path:
    """A package as the cache keeps it: its content, and beside it what the server said of it."""
    path = store / "debrep/pool/main/h" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.with_name(f"{name}.head").write_text(f"HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\n\r\n")
    return path


def test_two_caches_never_have_one_store(stores: Path) -> None:
    with cache._slot() as (first, _):
        with cache._slot() as (second, _):
            assert first != second
        with cache._slot() as (again, _):
            assert again == second
    with cache._slot() as (free, _):
        assert free == first


def test_a_store_is_taken_as_long_as_its_descriptor_is_open(stores: Path) -> None:
    with cache._slot() as (first, descriptor):
        held_by_child = os.dup(descriptor)
    with cache._slot() as (second, _):
        assert second != first
    os.close(held_by_child)
    with cache._slot() as (free, _):
        assert free == first


def test_whole_packages_are_shared_and_others_not(stores: Path) -> None:
    other, mine = stores / "0", stores / "1"
    mine.mkdir()
    whole = package(other, "whole_1.deb", b"12345", 5)
    package(other, "cut_1.deb", b"123", 5)
    (other / "debrep/dists").mkdir(parents=True)
    (other / "debrep/dists/InRelease").write_text("changes every day")
    cache.seed(mine)
    shared = mine / whole.relative_to(other)
    assert shared.samefile(whole)
    assert shared.with_name("whole_1.deb.head").is_file()
    assert sorted(path.name for path in mine.rglob("*") if path.is_file()) == ["whole_1.deb", "whole_1.deb.head"]
    cache.seed(mine)  # once more changes nothing


def test_the_cache_serves_its_gateway_and_two_archives(tmp_path: Path) -> None:
    made = Cache(Place("unit"), "198.18.7.1")
    text = made._configuration(tmp_path, tmp_path, Mirror("http://m.test/debian", "http://m.test/debian-security"))
    settings = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    assert settings["BindAddress"] == "198.18.7.1"
    assert settings["ForceManaged"] == "1"
    assert [value for name, value in settings.items() if name.startswith("Remap-")] == [
        "/debian ; http://m.test/debian",
        "/debian-security ; http://m.test/debian-security",
    ]
    assert made.mirror == Mirror("http://198.18.7.1:3142/debian", "http://198.18.7.1:3142/debian-security")
