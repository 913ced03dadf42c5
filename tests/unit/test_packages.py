"""The lock of packages, and what differs from it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import yaml

from ops import differences, package_lock
from ops.deployment import releases
from ops.deployment.releases import Releases
from ops.environment import Environment, Kind
from ops.errors import Exit, Failure
from ops.package_lock import PackageLock
from ops.packages import installed
from ops.packages.change import locked_at
from ops.packages.installed import Installed, PackageChange
from ops.packages.repository import Repository

KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEaS\n=x\n-----END PGP PUBLIC KEY BLOCK-----\n"
LOCK = PackageLock("20261125-0a1b2c3d", KEY, {"haproxy": "3.0.11-1", "bash": "5.2.37-2", "zlib1g": "1:1.3"})
FOUND = {
    "lb1": Installed({"haproxy": "3.0.10-1", "bash": "5.2.37-2"}, []),
    "lb2": Installed({"haproxy": "3.0.10-1", "bash": "5.2.38-1", "own": "1"}, ["haproxy.service"]),
    "web1": Installed({"bash": "5.2.37-2"}, []),
}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment with an empty inventory."""
    (tmp_path / "group_vars" / "all").mkdir(parents=True)
    return Environment("prod", tmp_path, Kind.REAL)


def test_a_lock_is_read_as_it_was_written(environment: Environment) -> None:
    assert package_lock.read(environment) is None
    package_lock.write(environment, LOCK)
    assert package_lock.read(environment) == LOCK


def test_a_lock_can_be_read_by_people(environment: Environment) -> None:
    package_lock.write(environment, LOCK)
    lines = package_lock.path_of(environment).read_text().splitlines()
    assert lines[0].startswith("#")
    assert lines[1:4] == [
        "base_apt_snapshot: 20261125-0a1b2c3d",
        "base_apt_snapshot_key: |",
        f"  {KEY.splitlines()[0]}",
    ]
    # A line for each package, in the order of their names: git shows what an update changed.
    assert [line.split(":")[0].strip() for line in lines if line.startswith("  ")][-3:] == ["bash", "haproxy", "zlib1g"]


def test_a_version_that_looks_like_a_number_stays_a_text(environment: Environment) -> None:
    package_lock.write(environment, PackageLock("s", KEY, {"mawk": "1.30", "x": "2026"}))
    assert yaml.safe_load(package_lock.path_of(environment).read_text())["package_versions"] == {
        "mawk": "1.30",
        "x": "2026",
    }


@pytest.mark.parametrize("text", ["", "[]", "base_apt_snapshot: x\n", "a: [", "base_apt_snapshot"])
def test_another_file_is_no_lock(text: str) -> None:
    with pytest.raises(Failure, match="is not a lock of packages") as caught:
        PackageLock.from_text(text)
    assert caught.value.code == Exit.BAD_CONFIGURATION


def test_a_commit_without_a_lock_is_refused(environment: Environment) -> None:
    with pytest.raises(Failure, match="neither a snapshot 'no-such-ref' nor") as caught:
        package_lock.at(environment, "no-such-ref")
    assert caught.value.code == Exit.USAGE
    assert "packages.status" in caught.value.hint


def test_the_lock_of_an_earlier_commit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`packages.revert --to=REF`: the reference means the file as it was then."""
    monkeypatch.setattr(package_lock, "ROOT", tmp_path)
    monkeypatch.setattr(package_lock, "INVENTORIES", tmp_path / "inventories")
    made = Environment("prod", tmp_path / "inventories" / "prod", Kind.REAL)
    package_lock.path_of(made).parent.mkdir(parents=True)

    def git(*words: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    for number in ("1", "2"):
        package_lock.write(made, PackageLock(f"2026110{number}-0a1b2c3d", KEY, {"bash": number}))
        git("add", "-A")
        git("commit", "-q", "-m", number)
    kept = SimpleNamespace(
        snapshots=lambda: ["20261101-0a1b2c3d", "20261102-0a1b2c3d"], lock_on=lambda name: PackageLock(name, KEY, {})
    )
    repository = cast(Repository, kept)
    for to, day in (("HEAD~1", "1"), ("HEAD", "2"), ("20261101-0a1b2c3d", "1")):
        assert locked_at(made, repository, to).snapshot == f"2026110{day}-0a1b2c3d"
    kept.snapshots = lambda: ["20261102-0a1b2c3d"]
    with pytest.raises(Failure, match="The lock in 'HEAD~1' names the snapshot 20261101-0a1b2c3d, which was removed"):
        locked_at(made, repository, "HEAD~1")


def test_drift_tells_packages_and_releases(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "ask", lambda _: FOUND)
    assert list(differences.of_packages(environment)) == [], "nothing is locked"
    package_lock.write(environment, LOCK)
    assert [(change.host, change.item) for change in differences.of_packages(environment)] == [
        ("lb2", "bash 5.2.38-1, locked: 5.2.37-2"),
        ("lb1", "haproxy 3.0.10-1, locked: 3.0.11-1"),
        ("lb2", "haproxy 3.0.10-1, locked: 3.0.11-1"),
    ]
    runs = {"worker1": "a", "web1": "b", "web2": "a"}
    monkeypatch.setattr(releases, "hosts_of", lambda _: [])
    monkeypatch.setattr(
        releases, "ask", lambda *_: {host: Releases(host, version, "", [], {}) for host, version in runs.items()}
    )
    assert [(change.host, change.item) for change in differences.of_releases(environment)] == [
        ("web1", "b; most have a")
    ]
    runs.clear()
    assert list(differences.of_releases(environment)) == [], "no host runs releases"


def test_changes_are_told_by_package_and_version() -> None:
    assert installed.changes(FOUND, LOCK.versions) == [
        PackageChange("bash", "5.2.38-1", "5.2.37-2", ("lb2",)),
        PackageChange("haproxy", "3.0.10-1", "3.0.11-1", ("lb1", "lb2")),
    ]
    assert installed.hosts_of(installed.changes(FOUND, LOCK.versions)) == ["lb1", "lb2"]


def test_what_the_lock_does_not_name_stays() -> None:
    assert installed.changes({"web1": Installed({"own": "1"}, [])}, LOCK.versions) == []


def test_every_package_of_any_host_is_asked_for() -> None:
    assert installed.names(FOUND) == {"haproxy", "bash", "own"}
