"""The image of the hosts: its name tells what it was made of, and it gets it only when all of it is on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ops.lab import image
from ops.lab.sources import Mirror

MIRROR = Mirror("http://m.test/debian", "http://m.test/debian-security")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("debian_suite", lambda: "forky"),
        ("PACKAGES", (*image.PACKAGES, "more")),
        ("_OPTIONS", (*image._OPTIONS, "--dpkgopt=path-exclude=/usr/share/doc/*")),
    ],
)
def test_whatever_decides_the_content_makes_another_image(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    before = image.checksum()
    assert image.checksum() == before
    monkeypatch.setattr(image, name, value)
    assert image.checksum() != before


def test_other_suites_make_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.checksum()
    monkeypatch.setattr(Mirror, "one_line_sources", lambda self, suite: f"deb {self.main} {suite} main\n")
    assert image.checksum() != before


def test_what_is_in_the_name_is_what_mmdebstrap_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No option is left that would change the content and not the name; the recipe is in it as text."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> object:
        commands.append(command)
        return image.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(image.subprocess, "run", run)
    image._bootstrap(tmp_path / "root", MIRROR, 0)
    (command,) = commands
    others = [word for word in command if word not in image._OPTIONS]
    packages = f"--include={','.join(image.PACKAGES)}"
    hook = f'--customize-hook=sh {image._RECIPE} "$1"'
    assert others == ["mmdebstrap", "--quiet", packages, hook, image.debian_suite(), str(tmp_path / "root"), "-"]


def test_an_image_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def sync() -> None:
        (root,) = tmp_path.glob("building-*/root")
        seen.append((root / "etc").name)
        assert not image.exists()

    monkeypatch.setattr(image, "IMAGES", tmp_path)
    monkeypatch.setattr(image, "_bootstrap", lambda root, mirror, lock: (root / "etc").mkdir(parents=True))
    monkeypatch.setattr(os, "sync", sync)
    assert image.build(MIRROR) == image.path()
    assert seen == ["etc"]
    assert (image.path() / "etc").is_dir()
