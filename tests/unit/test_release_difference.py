"""When two archives differ, the first difference is named: the member, and its field or byte."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.artefact import archive, manifest
from ops.release.difference import first_difference

BUILT_AT = 1_900_000_000
WHEEL = "wheels/longhaul-1-py3-none-any.whl"
SUMMER, WINTER = (2030, 7, 1, 0, 0, 0), (2030, 1, 1, 0, 0, 0)


def content(folder: Path) -> Path:
    """An unpacked release."""
    (folder / "wheels").mkdir(parents=True)
    (folder / "frontend").mkdir()
    (folder / "frontend" / "app.js").write_text("let answer = 42;\n")
    (folder / "processors").mkdir()
    (folder / "processors" / "inspect_file.py").write_text("print()\n")
    wheel(folder)
    return folder


def wheel(folder: Path, *, code: str = "a = 1\n", when: tuple[int, ...] = SUMMER, mode: int = 0o644) -> None:
    """The application's wheel."""
    with zipfile.ZipFile(folder / WHEEL, "w") as members:
        for name, text in {
            "longhaul/a.py": code,
            "longhaul-1.dist-info/RECORD": f"longhaul/a.py,{hash(code)}\n",
        }.items():
            entry = zipfile.ZipInfo(name, when)  # type: ignore[arg-type]
            entry.external_attr = mode << 16
            members.writestr(entry, text)


def packed(folder: Path, target: Path, seconds: int = BUILT_AT) -> Path:
    """The archive of an unpacked release, with its manifest."""
    manifest.write(folder, version="1")
    archive.pack(folder, seconds, target)
    return target


def other_byte(folder: Path) -> None:
    """In a text."""
    (folder / "frontend" / "app.js").write_text("let answer = 43;\n")


def longer(folder: Path) -> None:
    """One goes on where the other ends."""
    (folder / "frontend" / "app.js").write_text("let answer = 42;\n//")


def other_file(folder: Path) -> None:
    """One has more than the other."""
    (folder / "frontend" / "app.js.map").write_text("{}")


def other_code(folder: Path) -> None:
    """In a wheel, whose RECORD differs too."""
    wheel(folder, code="a = 2\n")


def other_time(folder: Path) -> None:
    """The day of the build, in a wheel."""
    wheel(folder, when=WINTER)


def other_mode(folder: Path) -> None:
    """The umask of the builder, in a wheel."""
    wheel(folder, mode=0o600)


KNOWN = {
    other_byte: r"frontend/app.js differs from byte 14 on: 'let answer = 42;\n' in one, 'let answer = 43;\n' in the",
    longer: "frontend/app.js differs from byte 17 on",
    other_file: "member 2 is manifest.json in one and frontend/app.js.map in the other",
    other_code: f"{WHEEL}: longhaul/a.py differs from byte 4 on",
    other_time: f"{WHEEL}: longhaul/a.py: its date_time is (2030, 7, 1, 0, 0, 0) in one and (2030, 1, 1, 0, 0, 0)",
    other_mode: f"{WHEEL}: longhaul/a.py: its external_attr is {0o644 << 16} in one and {0o600 << 16} in the other",
}


@pytest.mark.parametrize(("change", "says"), KNOWN.items(), ids=[change.__name__ for change in KNOWN])
def test_the_cause_is_named_and_not_the_manifest_that_tells_of_it(
    tmp_path: Path, change: Callable[[Path], None], says: str
) -> None:
    one = packed(content(tmp_path / "a"), tmp_path / "one")
    folder = content(tmp_path / "b")
    change(folder)
    said = first_difference(one, packed(folder, tmp_path / "other"))
    assert said.startswith(says), said


def test_equal_archives_have_no_difference(tmp_path: Path) -> None:
    one, other = (packed(content(tmp_path / name), tmp_path / f"{name}.zst") for name in "ab")
    assert first_difference(one, other) == ""


def test_a_time_of_a_member_is_named(tmp_path: Path) -> None:
    folder = content(tmp_path / "a")
    one, other = packed(folder, tmp_path / "one"), packed(folder, tmp_path / "other", BUILT_AT + 1)
    assert first_difference(one, other) == (
        f"frontend/app.js: its mtime is {BUILT_AT} in one and {BUILT_AT + 1} in the other"
    )


def test_what_only_the_manifest_says_is_named_by_its_key(tmp_path: Path) -> None:
    folder = content(tmp_path / "a")
    one = packed(folder, tmp_path / "one")
    manifest.write(folder, version="2")
    archive.pack(folder, BUILT_AT, tmp_path / "other")
    assert first_difference(one, tmp_path / "other") == "manifest.json: version is '1' in one and '2' in the other"


def test_another_compression_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = content(tmp_path / "a")
    one = packed(folder, tmp_path / "one")
    monkeypatch.setattr(archive, "COMPRESSION_LEVEL", 1)
    assert "compressed in different ways" in first_difference(one, packed(folder, tmp_path / "other"))


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    one = packed(content(tmp_path / "a"), tmp_path / "one")
    other = tmp_path / "other"
    other.write_bytes(one.read_bytes()[:-100])
    assert "cannot be unpacked" in first_difference(one, other)


def test_a_damaged_member_is_named_by_its_bytes(tmp_path: Path) -> None:
    folder = content(tmp_path / "a")
    one = packed(folder, tmp_path / "one")
    (folder / WHEEL).write_bytes(b"PK, but no wheel")
    assert first_difference(one, packed(folder, tmp_path / "other")).startswith(f"{WHEEL} differs from byte 2 on")


def test_another_compressor_than_the_locked_one_makes_no_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive.zstandard, "ZSTD_VERSION", (1, 5, 8))
    with pytest.raises(archive.Failure, match=r"compresses with zstd 1\.5\.8"):
        archive.pack(content(tmp_path / "a"), BUILT_AT, tmp_path / "archive")
    assert not (tmp_path / "archive").exists()
