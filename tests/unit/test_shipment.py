"""Processors that are shipped alone: made from a commit, signed, and nothing that a release could be taken for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import secrets
from ops.artefact import archive, manifest
from ops.environment import Environment, Kind
from ops.errors import Exit, Failure
from ops.on_host import install_release as installer
from ops.on_host.install_release import Refused
from ops.paths import APP
from ops.release import shipment, signature, source
from ops.release.source import Source

COMMIT = "abcdefabcdef"
VERSION = f"20300101T000000-{COMMIT}"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The key of an allowed signer, its public line beside it."""
    private, public = secrets._ssh_key("alice")
    path = tmp_path / "alice"
    path.touch(mode=0o600)
    path.write_text(private)
    path.with_suffix(".pub").write_text(public)
    return path


@pytest.fixture
def environment(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment that allows that signer."""
    written = [{"principal": "alice", "key": key.with_suffix(".pub").read_text().strip()}]
    monkeypatch.setattr(Environment, "variable", lambda _self, name: {"release_signers": written}[name])
    return Environment("prod", tmp_path, Kind.REAL)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The processors of the commit that is built, and a `dist` of its own."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "count.py").write_text("print(1)\n")
    (scripts / "README.md").write_text("no script\n")

    def export(_source: Source, target: Path) -> None:
        (target / "app").mkdir(parents=True)
        (target / "app" / "processors").symlink_to(scripts)

    monkeypatch.setattr(source, "of_work_tree", lambda **_: Source(VERSION, COMMIT, 0, "HEAD", COMMIT))
    monkeypatch.setattr(Source, "export", export)
    monkeypatch.setattr(shipment, "DIST", tmp_path / "dist")
    monkeypatch.setattr(shipment, "ROOT", tmp_path)
    return scripts


@pytest.fixture
def host(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's /opt/longhaul."""
    home = tmp_path / "opt"
    for name in ("archives", "releases", "shipments"):
        (home / name).mkdir(parents=True)
    signers = tmp_path / "signers"
    signers.write_text(f'alice namespaces="{installer.NAMESPACE}" {key.with_suffix(".pub").read_text()}')
    monkeypatch.setattr(installer, "HOME", home)
    monkeypatch.setattr(installer, "SIGNERS", signers)
    monkeypatch.setattr(installer, "_unpack", archive.unpack)
    return home


def carry(host: Path, made: Path, name: str) -> str:
    """Put an archive and its signature where a task puts it; returns its SHA-256."""
    for suffix in ("", ".sig"):
        (host / "archives" / f"{name}.tar.zst{suffix}").write_bytes(Path(f"{made}{suffix}").read_bytes())
    return installer.sha256_of(made)


def test_a_shipment_is_made_signed_and_installed(tree: Path, key: Path, environment: Environment, host: Path) -> None:
    made = shipment.build(environment, key=str(key))
    assert (made.version, made.path.name) == (VERSION, f"processors-{VERSION}.tar.zst")
    installer.install_processors(VERSION, carry(host, made.path, f"processors-{VERSION}"))
    folder = host / "shipments" / VERSION
    assert {path.name for path in (folder / "processors").iterdir()} == {"count.py"}
    assert (folder / "archive.sha256").read_text().strip() == made.sha256
    again = shipment.build(environment, key=str(key))
    assert again == made, "the same commit gives the same bytes"


def test_another_content_under_one_version_is_refused(tree: Path, key: Path, environment: Environment) -> None:
    shipment.build(environment, key=str(key))
    (tree / "count.py").write_text("print(2)\n")
    with pytest.raises(Failure, match="is not what its commit gives"):
        shipment.build(environment, key=str(key))


def test_a_script_that_is_no_python_is_shipped_nowhere(tree: Path, key: Path, environment: Environment) -> None:
    (tree / "count.py").write_text("print(\n")
    with pytest.raises(Failure, match=r"app/processors/count.py is not valid Python") as caught:
        shipment.build(environment, key=str(key))
    assert caught.value.code == Exit.BAD_INPUT


def test_what_is_signed_by_somebody_else_is_refused_here_already(
    tree: Path, tmp_path: Path, environment: Environment
) -> None:
    other = tmp_path / "mallory"
    other.touch(mode=0o600)
    other.write_text(secrets._ssh_key("mallory")[0])
    with pytest.raises(Failure, match="'prod' would not accept"):
        shipment.build(environment, key=str(other))


def test_a_release_is_no_shipment_and_a_shipment_no_release(
    tree: Path, key: Path, environment: Environment, host: Path, tmp_path: Path
) -> None:
    made = shipment.build(environment, key=str(key))
    sha256 = carry(host, made.path, VERSION)
    with pytest.raises(Refused, match=f"is of processors-{VERSION}, not of {VERSION}"):
        installer.install(VERSION, sha256)
    content, other = tmp_path / "content", tmp_path / "release.tar.zst"
    content.mkdir()
    (content / "requirements.txt").touch()
    manifest.write(content, version=VERSION)
    archive.pack(content, 0, other)
    signature.sign(other, key, other.with_name(f"{other.name}.sig"))
    sha256 = carry(host, other, f"processors-{VERSION}")
    with pytest.raises(Refused, match=f"is of {VERSION}, not of processors-{VERSION}"):
        installer.install_processors(VERSION, sha256)
    assert not any((host / "shipments").iterdir())


def test_a_host_keeps_the_newest_shipments_and_those_that_its_releases_use(host: Path) -> None:
    for number, version in enumerate(("used", "old", "new", "newest")):
        (host / "shipments" / version / "processors").mkdir(parents=True)
        (host / "shipments" / version / "archive.sha256").touch()
        os.utime(host / "shipments" / version, (number, number))
    (host / "shipments" / "cut-off").mkdir()
    (host / "releases" / "r1").mkdir()
    (host / "releases" / "r1" / "shipped").symlink_to("../../shipments/used/processors")
    installer.make_room(host / "shipments", 2, installer.shipped())
    assert {path.name for path in (host / "shipments").iterdir()} == {"used", "new", "newest"}


def test_the_processors_of_this_work_tree_are_python() -> None:
    scripts = sorted((APP / "processors").glob("*.py"))
    assert scripts
    for path in scripts:
        compile(path.read_bytes(), path.name, "exec")
