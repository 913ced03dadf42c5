"""What the tasks that deploy find out before anything is changed, and tell after it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ops.deployment import lock, notify, releases
from ops.deployment import record as records
from ops.deployment.deployment import Deployment
from ops.deployment.record import Record, Records
from ops.deployment.releases import Releases
from ops.deployment.unfinished import release_before
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.release import Release
from ops.tasks import database
from ops.tasks import deploy as deploying
from tests.support.fleet import HOSTS, NEW, OLD, World, store


@pytest.fixture
def kept(world: World, monkeypatch: pytest.MonkeyPatch) -> Records:
    """The records that the tasks find, in a store that is the world's."""
    monkeypatch.setattr(deploying, "Store", lambda _environment: store(world.memory))
    monkeypatch.setattr(database, "Store", lambda _environment: store(world.memory))
    return Records(store(world.memory))


def test_a_wrong_name_is_said_before_a_lab_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Environment] = []
    monkeypatch.setattr(deploying, "_lab_up", started.append)
    with pytest.raises(SystemExit) as ended:
        deploying.deploy.body(None, env="lab", limit="nobody")
    assert ended.value.code == Exit.USAGE
    assert "no host 'nobody'" in capsys.readouterr().err
    assert not started


def test_the_way_back_leads_before_the_last_deployment_whatever_was_done_since(kept: Records) -> None:
    for number, (operation, release, before) in enumerate(
        [
            ("deploy", NEW, OLD),
            (records.CONTRACT, NEW, NEW),
            (records.PACKAGES, "20261101-ab12cd34", "20261001-ab12cd34"),
            (records.SHIP, "2", "1"),
        ]
    ):
        record = Record.new(operation, release, "")
        record.id, record.result, record.before = str(number), records.DONE, dict.fromkeys(HOSTS, before)
        kept.save(record)
    assert release_before(kept, {}) == OLD


def test_the_new_record_is_there_before_the_old_one_is_closed(kept: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed, record = Record.new("deploy", NEW, ""), Record.new("deploy", NEW, "")
    resumed.id, record.id = "1", "2"
    resumed.result, resumed.before = records.INTERRUPTED, {"web1": "older"}
    kept.save(resumed)
    open_ones: list[list[str]] = []
    real = Records.save

    def save(self: Records, one: Record) -> None:
        real(self, one)
        open_ones.append([other.id for other in self.list() if other.result in records.OPEN])

    monkeypatch.setattr(Records, "save", save)
    environment = Environment.of_checkout("lab")
    hosts = releases.hosts_of(environment)
    Deployment.begun(environment, hosts, record, kept, None, resumed=resumed)
    assert open_ones == [["2", "1"], ["2"]]
    assert record.before == {**dict.fromkeys(HOSTS, OLD), "web1": "older"}


@pytest.mark.usefixtures("kept")
def test_a_contraction_looks_again_when_it_has_the_lock(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody else may deploy while the question waits for its answer."""

    def answer(*_: object, **__: object) -> None:
        world.current["web1"] = NEW

    monkeypatch.setattr(database, "name_again", answer)
    monkeypatch.setattr(
        releases,
        "ask",
        lambda environment, hosts: {
            name: Releases(name, host.current, "", [OLD, NEW], {OLD: "0001"})
            for name, host in world.ask(environment, hosts).items()
        },
    )
    with pytest.raises(SystemExit):
        database.contract.body(None, env="lab")
    assert "different releases" in capsys.readouterr().err
    assert not world.done


def test_a_deployment_looks_again_when_it_has_the_lock(
    world: World, kept: Records, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose process had just died held the lock when this one began."""
    monkeypatch.setattr(deploying, "_lab_up", lambda environment: environment)
    monkeypatch.setattr(deploying.release, "verify", lambda *_: "somebody")
    died = Record.new("deploy", NEW, "")
    died.before = dict.fromkeys(HOSTS, OLD)

    def find(version: str) -> Release:
        kept.save(died)
        return Release(version, Path("/nowhere"), "0" * 64)

    monkeypatch.setattr(deploying.release, "find", find)
    with pytest.raises(SystemExit) as ended:
        deploying.deploy.body(None, env="lab", release_=NEW, provision=False)
    assert ended.value.code == Exit.TEMPORARY
    assert "./inv deploy --resume" in capsys.readouterr().err
    assert not world.done


@pytest.mark.usefixtures("kept")
def test_a_rollback_looks_again_when_it_has_the_lock(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = iter([OLD, NEW])
    monkeypatch.setattr(deploying, "release_before", lambda *_: next(targets))
    with pytest.raises(SystemExit) as ended:
        deploying.rollback.body(None, env="lab")
    assert ended.value.code == Exit.TEMPORARY
    assert "Somebody else has changed the environment" in capsys.readouterr().err
    assert not world.done


@pytest.mark.parametrize("other", [{"release_": NEW}, {"limit": "web1"}])
def test_what_is_resumed_is_what_was_begun(other: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        deploying.deploy.body(None, env="lab", resume=True, **other)
    assert ended.value.code == Exit.USAGE
    assert "Leave out --release and --limit" in capsys.readouterr().err


def test_the_way_back_from_the_middle_leads_before_it(world: World, kept: Records) -> None:
    """A rollback that fails too leaves hosts where it was going, not where they were."""
    stopped = Record.new("deploy", NEW, "")
    stopped.id, stopped.before = "1", dict.fromkeys(HOSTS, OLD)
    kept.save(stopped)
    world.current["worker1"] = world.current["worker2"] = NEW
    environment = Environment.of_checkout("lab")
    record = Record.new("rollback", OLD, "")
    made = Deployment.begun(environment, releases.hosts_of(environment), record, kept, None)
    world.broken = lambda playbook, limit, version: (playbook, limit) == ("release-switch", "worker2")
    with pytest.raises(Failure, match="not back on what they had: worker2"):
        made.go_to(OLD)
    assert world.current["worker1"] == OLD
    assert record.result == records.FAILED
    assert release_before(kept, {}) == OLD


def test_deployments_that_have_no_end_say_how_to_go_on(
    world: World, kept: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, operation in enumerate(("deploy", "rollback", records.SHIP)):
        record = Record.new(operation, NEW, "")
        record.id = str(number)
        kept.save(record)
    deploying.deploys.body(None, env="lab")
    ends = [line.strip() for line in capsys.readouterr().out.splitlines() if "its process has died" in line]
    died = "its process has died in 'the beginning'"
    assert ends == [died, f"{died}: ./inv rollback --to={NEW}", f"{died}: ./inv deploy --resume, or ./inv rollback"]
    with lock.held(store(world.memory), "something else"):
        deploying.deploys.body(None, env="lab")
    said = capsys.readouterr().out
    assert (said.count("the lock is held by"), said.count("its process has died")) == (1, 2), "only the newest runs"


def test_whom_the_inventory_names_gets_the_record(tmp_path: Path) -> None:
    hook = ["sh", "-c", f"cat > {tmp_path}/told"]
    environment = SimpleNamespace(hosts={"web1": SimpleNamespace(variables={notify.NOTIFY: hook})})
    record = Record.new("deploy", NEW, "")
    notify.notify(cast(Environment, environment), record)
    assert Record.from_text((tmp_path / "told").read_text()) == record


def test_a_notification_that_fails_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    environment = SimpleNamespace(hosts={"web1": SimpleNamespace(variables={notify.NOTIFY: ["false"]})})
    notify.notify(cast(Environment, environment), Record.new("deploy", NEW, ""))
    assert "deploy_notify failed" in capsys.readouterr().err
