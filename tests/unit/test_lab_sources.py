"""Which mirror the lab takes packages from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.errors import Exit, Failure
from ops.lab import sources
from ops.lab.sources import Mirror


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting but the test's own."""
    monkeypatch.delenv("LONGHAUL_DEBIAN_MIRROR", raising=False)


def apt(directory: Path, **files: str) -> Path:
    """A folder like /etc/apt: `list` is sources.list, others go to sources.list.d with `_` as the dot."""
    (directory / "sources.list.d").mkdir()
    for name, text in files.items():
        path = directory / ("sources.list" if name == "list" else f"sources.list.d/{name.replace('_', '.')}")
        path.write_text(text)
    return directory


def test_deb822_sources(tmp_path: Path) -> None:
    text = "Types: deb\nURIs: http://mirror.test/debian/\nSuites: s\n\nTypes: deb\nURIs: http://mirror.test/debian-security\n"
    found = sources.mirror(apt(tmp_path, debian_sources=text))
    assert found == Mirror("http://mirror.test/debian", "http://mirror.test/debian-security")


def test_one_line_sources(tmp_path: Path) -> None:
    text = (
        "# deb http://no.test/debian x main\n"
        "deb-src http://src.test/debian x main\n"
        "deb [arch=amd64 signed-by=/x] https://mirror.test/debian x main\n"
    )
    found = sources.mirror(apt(tmp_path, list=text))
    assert found == Mirror("https://mirror.test/debian", "https://mirror.test/debian-security")


def test_other_archives_are_no_debian_mirror(tmp_path: Path) -> None:
    files = {"x_list": "deb https://else.test/apt x main\n", "y_sources": "URIs: https://node.test/node_20.x\n"}
    assert sources.mirror(apt(tmp_path, list="deb http://archive.test/ubuntu x main\n", **files)).main == sources.PUBLIC


def test_disabled_files_do_not_count(tmp_path: Path) -> None:
    assert sources.mirror(apt(tmp_path, a_list_save="deb http://old.test/debian x main\n")).main == sources.PUBLIC


def test_the_setting_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGHAUL_DEBIAN_MIRROR", "http://named.test/debian/")
    found = sources.mirror(apt(tmp_path, list="deb http://mirror.test/debian x main\n"))
    assert found == Mirror("http://named.test/debian", "http://named.test/debian-security")


@pytest.mark.parametrize("url", ["file:///srv/debian", "named.test/debian", "ftp://named.test/debian"])
def test_a_mirror_that_the_cache_cannot_reach_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGHAUL_DEBIAN_MIRROR", url)
    with pytest.raises(Failure, match="cannot be reached over HTTP") as caught:
        sources.mirror()
    assert caught.value.code == Exit.BAD_CONFIGURATION


def test_hosts_get_all_three_suites() -> None:
    text = Mirror("http://gw.test/debian", "http://gw.test/debian-security").deb822("trixie")
    suites = [word for line in text.splitlines() if line.startswith("Suites:") for word in line.split()[1:]]
    assert suites == ["trixie", "trixie-updates", "trixie-security"]
