"""Where the lock is kept: an environment whose etcd never ran is new, one whose etcd is away is not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ops import where
from ops.deployment import store
from ops.deployment.store import NEVER_RAN, NotThereYet, Store
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.tasks import provision

HOSTS = ["data1", "data2", "data3"]


class Cluster:
    """Database hosts whose commands run here: each has a folder for its /, and an etcdctl that reaches nobody."""

    name = "prod"
    first_datacentre = "dc1"

    def __init__(self, place: Path) -> None:
        self.place = place
        self.away: set[str] = set()
        for name in HOSTS:
            (place / name / "bin").mkdir(parents=True)
            self.write(name, "sudo", 'shift; case "$1" in /*) exec "$(dirname "$0")/${1##*/}";; *) exec "$@";; esac')
            self.write(name, "longhaul-etcdctl", "echo context deadline exceeded >&2; exit 1")

    def write(self, host: str, name: str, text: str) -> None:
        command = self.place / host / "bin" / name
        command.write_text(f"#!/bin/sh\n{text}\n")
        command.chmod(0o755)

    def group(self, _name: str) -> list[Host]:
        return [Host(name, frozenset({"database"}), {"site_datacentre": "dc1"}) for name in HOSTS]

    def connection(self, host: Host) -> Any:
        def run(command: str, **_: object) -> Any:
            if host.name in self.away:
                raise TimeoutError("no route")
            home = self.place / host.name
            done = subprocess.run(
                ["sh", "-c", command.replace("/var/lib/etcd", f"{home}/var/lib/etcd")],
                env={"PATH": f"{home}/bin:/usr/bin:/bin"},
                capture_output=True,
                text=True,
                check=False,
            )
            return SimpleNamespace(return_code=done.returncode, stdout=done.stdout, stderr=done.stderr)

        return nullcontext(SimpleNamespace(run=run))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def ask(cluster: Cluster) -> None:
    Store(cast(Environment, cluster)).get("lock")


def nothing(_cluster: Cluster) -> None:
    """Bare hosts."""
    for name in HOSTS:
        (_cluster.place / name / "bin" / "longhaul-etcdctl").unlink()


def command_only(_cluster: Cluster) -> None:
    """A provision that ended before etcd was started, after its command was written."""


def packages(cluster: Cluster) -> None:
    """One that ended after the packages were there."""
    (cluster.place / "data2" / "var/lib/etcd/longhaul").mkdir(parents=True)


@pytest.mark.parametrize("begin", [nothing, command_only, packages], ids=lambda begin: begin.__name__)
def test_an_environment_on_which_etcd_never_ran_is_new(cluster: Cluster, begin: Callable[[Cluster], None]) -> None:
    begin(cluster)
    with pytest.raises(NotThereYet):
        ask(cluster)


def a_member(cluster: Cluster) -> None:
    """That of the only host that ever started; or the two others have lost their disks."""
    (cluster.place / "data3" / "var/lib/etcd/longhaul/member").mkdir(parents=True)


def a_member_without_its_command(cluster: Cluster) -> None:
    """Its system was made anew, its data was not."""
    nothing(cluster)
    a_member(cluster)


def a_silent_host(cluster: Cluster) -> None:
    """It may have data."""
    cluster.away.add("data2")


def a_host_that_cannot_look(cluster: Cluster) -> None:
    """Its disk is broken."""
    packages(cluster)
    cluster.write("data2", "find", "exit 1")


@pytest.mark.parametrize(
    "begin",
    [a_member, a_member_without_its_command, a_silent_host, a_host_that_cannot_look],
    ids=lambda begin: begin.__name__,
)
def test_one_where_a_cluster_may_be_is_not(cluster: Cluster, begin: Callable[[Cluster], None]) -> None:
    begin(cluster)
    with pytest.raises(Failure, match="etcd of 'prod' does not answer") as failed:
        ask(cluster)
    assert not isinstance(failed.value, NotThereYet)
    assert failed.value.code == Exit.UNAVAILABLE
    assert "./inv provision --env=prod --without-lock" in failed.value.hint


def test_what_etcdctl_answers_is_not_touched(cluster: Cluster) -> None:
    cluster.write("data1", "longhaul-etcdctl", "echo '{}'")
    assert Store(cast(Environment, cluster)).get("lock") is None


def test_provision_goes_ahead_without_etcd_if_it_is_told_to(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    a_member(cluster)
    played: list[str] = []
    monkeypatch.setattr(where, "environment", Environment.of_checkout)
    monkeypatch.setattr(provision, "Store", lambda _environment: store.Store(cast(Environment, cluster)))
    monkeypatch.setattr(provision, "run_playbook", lambda _environment, name, **_: played.append(name))
    with pytest.raises(SystemExit) as ended:
        provision.provision.body(None)
    assert (ended.value.code, played) == (Exit.UNAVAILABLE, [])
    provision.provision.body(None, without_lock=True)
    assert played == ["site"]


@dataclass
class InTurn:
    """Database hosts that answer in turn; what is no answer is raised."""

    answers: list[Any]
    asked: list[str] = field(default_factory=list)
    name: str = "lab"
    first_datacentre: str = "dc1"

    def group(self, _name: str) -> list[Any]:
        return [SimpleNamespace(name=f"data{number}", datacentre="dc1") for number, _ in enumerate(self.answers, 1)]

    def connection(self, host: Any) -> Any:
        return self

    def __enter__(self) -> InTurn:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, command: str, **_: object) -> Any:
        self.asked.append(command)
        answer = self.answers[len(self.asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        code, stdout, stderr = answer
        return SimpleNamespace(return_code=code, stdout=stdout, stderr=stderr)


class TestStore:
    GOOD = (0, json.dumps({"kvs": [{"key": "L2xvbmdoYXVsL2E=", "value": "Yg=="}]}), "")

    def ask(self, *answers: Any) -> str | None:
        return Store(cast(Environment, InTurn(list(answers)))).get("a")

    def test_the_next_host_is_asked_when_one_is_away(self) -> None:
        assert self.ask(TimeoutError("no route"), (1, "", "context deadline exceeded"), self.GOOD) == "b"

    def test_a_lease_says_when_it_ends(self) -> None:
        """As etcdctl prints it; a lease that has ended has -1."""
        for told, seconds in ((45, 45), (-1, 0)):
            answer = (0, json.dumps({"id": 7587, "ttl": told, "granted-ttl": 60, "keys": None}), "")
            assert Store(cast(Environment, InTurn([answer]))).seconds_left("1da3") == seconds

    def test_nobody_answers(self) -> None:
        with pytest.raises(Failure, match=r"data1: no route; data2: context deadline") as failed:
            self.ask(TimeoutError("no route"), (1, "", "context deadline exceeded"))
        assert failed.value.code == Exit.UNAVAILABLE
        assert not isinstance(failed.value, NotThereYet)

    def test_an_environment_without_etcd_is_new_only_if_no_host_has_it(self) -> None:
        absent = (1, "", f"sudo: /usr/local/sbin/longhaul-etcdctl: command not found\n{NEVER_RAN}")
        with pytest.raises(NotThereYet):
            self.ask(absent, absent)
        with pytest.raises(Failure) as failed:
            self.ask(absent, TimeoutError("no route"))
        assert not isinstance(failed.value, NotThereYet)
