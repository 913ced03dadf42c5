"""The lock of packages, and what differs from it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import yaml

from ops import provision
from ops.deployment import fleet as releases
from ops.deployment.fleet import Releases
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.packages import fleet, lock, tasks
from ops.packages.fleet import Change, Installed
from ops.packages.lock import Lock
from ops.packages.repository import Repository

KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEaS\n=x\n-----END PGP PUBLIC KEY BLOCK-----\n"
LOCK = Lock("20261125-0a1b2c3d", KEY, {"haproxy": "3.0.11-1", "bash": "5.2.37-2", "zlib1g": "1:1.3"})
FOUND = {
    "lb1": Installed({"haproxy": "3.0.10-1", "bash": "5.2.37-2"}, []),
    "lb2": Installed({"haproxy": "3.0.10-1", "bash": "5.2.38-1", "own": "1"}, ["haproxy.service"]),
    "web1": Installed({"bash": "5.2.37-2"}, []),
}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment with an empty inventory."""
    (tmp_path / "group_vars" / "all").mkdir(parents=True)
    return Environment("prod", tmp_path)


def test_a_lock_is_read_as_it_was_written(environment: Environment) -> None:
    assert lock.read(environment) is None
    lock.write(environment, LOCK)
    assert lock.read(environment) == LOCK


def test_a_lock_can_be_read_by_people(environment: Environment) -> None:
    lock.write(environment, LOCK)
    lines = lock.path_of(environment).read_text().splitlines()
    assert lines[0].startswith("#")
    assert lines[1:4] == [
        "base_apt_snapshot: 20261125-0a1b2c3d",
        "base_apt_snapshot_key: |",
        f"  {KEY.splitlines()[0]}",
    ]
    # A line for each package, in the order of their names: git shows what an update changed.
    assert [line.split(":")[0].strip() for line in lines if line.startswith("  ")][-3:] == ["bash", "haproxy", "zlib1g"]


def test_a_version_that_looks_like_a_number_stays_a_text(environment: Environment) -> None:
    lock.write(environment, Lock("s", KEY, {"mawk": "1.30", "x": "2026"}))
    assert yaml.safe_load(lock.path_of(environment).read_text())["package_versions"] == {"mawk": "1.30", "x": "2026"}


@pytest.mark.parametrize("text", ["", "[]", "base_apt_snapshot: x\n", "a: [", "base_apt_snapshot"])
def test_another_file_is_no_lock(text: str) -> None:
    with pytest.raises(Failure, match="no lock of packages") as caught:
        Lock.from_text(text)
    assert caught.value.code == Exit.BAD_CONFIGURATION


def test_a_commit_without_a_lock_is_refused(environment: Environment) -> None:
    with pytest.raises(Failure, match="neither a snapshot 'no-such-ref' nor") as caught:
        lock.at(environment, "no-such-ref")
    assert caught.value.code == Exit.USAGE
    assert "packages.status" in caught.value.hint


def test_the_lock_of_an_earlier_commit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`packages.revert --to=REF`: the reference means the file as it was then."""
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    monkeypatch.setattr(lock, "INVENTORIES", tmp_path / "inventories")
    made = Environment("prod", tmp_path / "inventories" / "prod")
    lock.path_of(made).parent.mkdir(parents=True)

    def git(*words: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    for number in ("1", "2"):
        lock.write(made, Lock(f"2026110{number}-0a1b2c3d", KEY, {"bash": number}))
        git("add", "-A")
        git("commit", "-q", "-m", number)
    kept = SimpleNamespace(
        snapshots=lambda: ["20261101-0a1b2c3d", "20261102-0a1b2c3d"], lock_on=lambda name: Lock(name, KEY, {})
    )
    repository = cast(Repository, kept)
    for to, day in (("HEAD~1", "1"), ("HEAD", "2"), ("20261101-0a1b2c3d", "1")):
        assert tasks._locked_at(made, repository, to).snapshot == f"2026110{day}-0a1b2c3d"
    kept.snapshots = lambda: ["20261102-0a1b2c3d"]
    with pytest.raises(Failure, match="which the lock in 'HEAD~1' names, is not kept any more"):
        tasks._locked_at(made, repository, "HEAD~1")


def test_drift_tells_packages_and_releases(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "ask", lambda _: FOUND)
    assert list(provision._other_packages(environment)) == [], "nothing is locked"
    lock.write(environment, LOCK)
    assert [(change.host, change.item) for change in provision._other_packages(environment)] == [
        ("lb2", "bash 5.2.38-1, locked: 5.2.37-2"),
        ("lb1", "haproxy 3.0.10-1, locked: 3.0.11-1"),
        ("lb2", "haproxy 3.0.10-1, locked: 3.0.11-1"),
    ]
    runs = {"worker1": "a", "web1": "b", "web2": "a"}
    monkeypatch.setattr(releases, "hosts_of", lambda _: [])
    monkeypatch.setattr(
        releases, "ask", lambda *_: {host: Releases(host, version, "", [], {}) for host, version in runs.items()}
    )
    assert [(change.host, change.item) for change in provision._other_releases(environment)] == [
        ("web1", "b; most have a")
    ]
    runs.clear()
    assert list(provision._other_releases(environment)) == [], "no host runs releases"


def test_changes_are_told_by_package_and_version() -> None:
    assert fleet.changes(FOUND, LOCK.versions) == [
        Change("bash", "5.2.38-1", "5.2.37-2", ("lb2",)),
        Change("haproxy", "3.0.10-1", "3.0.11-1", ("lb1", "lb2")),
    ]
    assert fleet.hosts_of(fleet.changes(FOUND, LOCK.versions)) == ["lb1", "lb2"]


def test_what_the_lock_does_not_name_stays() -> None:
    assert fleet.changes({"web1": Installed({"own": "1"}, [])}, LOCK.versions) == []


def test_every_package_of_any_host_is_asked_for() -> None:
    assert fleet.names(FOUND) == {"haproxy", "bash", "own"}
