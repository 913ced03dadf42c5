"""The lock, the record and the way back of a deployment: a store in memory, and playbooks that only say their name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ops import deploy as deploying
from ops.ansible import Change
from ops.deployment import fleet, lock, machine
from ops.deployment import record as records
from ops.deployment.fleet import Releases
from ops.deployment.machine import Machine
from ops.deployment.record import Record, Records
from ops.deployment.store import Store
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.paths import INVENTORIES
from ops.release import Release

OLD, NEW = "20260101T000000-aaaaaaaaaaaa", "20260202T000000-bbbbbbbbbbbb"
HOSTS = ["worker1", "worker2", "web1", "web2"]


@dataclass
class Memory:
    """A store whose leases end when the test says so; with `away`, nobody answers."""

    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    leases: set[str] = field(default_factory=set)
    granted: int = 0
    away: bool = False

    def _reach(self) -> None:
        if self.away:
            raise Failure("etcd does not answer", code=Exit.UNAVAILABLE)

    def get(self, key: str) -> str | None:
        self._reach()
        return self.keys.get(key, (None, ""))[0]

    def list(self, folder: str) -> dict[str, str]:
        self._reach()
        return {key: text for key, (text, _) in sorted(self.keys.items()) if key.startswith(folder)}

    def put(self, key: str, text: str, *, lease: str = "0") -> None:
        self._reach()
        self.keys[key] = (text, lease)

    def create(self, key: str, word: str, *, lease: str) -> bool:
        self._reach()
        return self.keys.setdefault(key, (word, lease)) == (word, lease)

    def delete(self, key: str) -> None:
        self._reach()
        self.keys.pop(key, None)

    def grant(self, seconds: int) -> str:
        self._reach()
        self.granted += 1
        self.leases.add(lease := f"{self.granted:x}")
        return lease

    def renew(self, lease: str) -> bool:
        self._reach()
        return lease in self.leases

    def revoke(self, lease: str) -> None:
        self._reach()
        self.leases.discard(lease)
        self.keys = {key: entry for key, entry in self.keys.items() if entry[1] != lease}


def store(memory: Memory) -> Store:
    return cast(Store, memory)


class TestLock:
    def test_one_holder_at_a_time(self) -> None:
        memory = Memory()
        with lock.held(store(memory), "first"):
            with pytest.raises(Failure, match="for: first") as refused, lock.held(store(memory), "second"):
                pass
            assert refused.value.code == Exit.TEMPORARY
            assert lock.operator() in refused.value.message
        assert not memory.keys
        with lock.held(store(memory), "third"):
            assert "third" in str(lock.current(store(memory)))

    def test_a_holder_whose_lock_was_broken_stops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lock, "RENEW_SECONDS", 0.01)
        memory = Memory()
        with lock.held(store(memory), "first") as first:
            first.check()
            broken = lock.break_lock(store(memory))
            assert broken is not None
            assert broken.reason == "first"
            first._thread.join(10)
            with pytest.raises(Failure, match="lost"):
                first.check()
            with lock.held(store(memory), "second") as second:
                second.check()
                first.release()
                assert lock.current(store(memory)) is not None, "the first must not free the second's lock"

    def test_a_holder_that_cannot_renew_stops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lock, "RENEW_SECONDS", 0.01)
        memory = Memory()
        with lock.held(store(memory), "first") as held:
            memory.away = True
            held.check()
            monkeypatch.setattr(lock, "LEASE_SECONDS", -1)
            with pytest.raises(Failure, match="could not be reached"):
                held.check()


@dataclass
class World:
    """Hosts whose playbooks change nothing but `current`; `broken` names what fails."""

    current: dict[str, str] = field(default_factory=lambda: dict.fromkeys(HOSTS, OLD))
    broken: Callable[[str, str, str], bool] = lambda _playbook, _limit, _version: False
    processors: dict[str, str] = field(default_factory=lambda: dict.fromkeys(HOSTS, "1"))
    stuck: set[str] = field(default_factory=set)
    silent: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    def play(
        self, _environment: object, playbook: str, *, limit: str = "", extra_vars: dict[str, str] | None = None
    ) -> list[Change]:
        if extra_vars is None:
            self.done.append(playbook)
            if self.broken(playbook, limit, ""):
                raise Failure(f"{playbook} does not work")
            return []
        self.told.append(extra_vars)
        version = extra_vars.get("release_version", "") or extra_vars["release_processors_version"]
        self.done.append(f"{playbook.removeprefix('release-')} {limit} {'new' if version == NEW else 'old'}".strip())
        if playbook == "processors-ship" and limit in self.stuck:
            self.processors[limit] = version  # it died before it could return
            raise Failure(f"{limit} is gone")
        if self.broken(playbook, limit, version):
            raise Failure(f"{limit} does not work")
        if playbook == "processors-ship":
            self.processors[limit] = version
        if playbook == "release-switch":
            self.current[limit] = version
        return []

    def ask(self, _environment: object, hosts: list[Any]) -> dict[str, Releases]:
        return {
            host.name: Releases(
                host=host.name,
                current=self.current[host.name],
                switching=OLD if host.name in self.stuck else "",
                installed=[OLD, NEW],
                heads={},
                processors=self.processors[host.name],
            )
            for host in hosts
        }


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(machine, "run_playbook", made.play)
    monkeypatch.setattr(fleet, "ask", made.ask)
    monkeypatch.setattr(fleet, "away", lambda _environment, hosts: [h.name for h in hosts if h.name in made.silent])
    monkeypatch.setattr(machine.access, "access", lambda _environment: None)
    monkeypatch.setattr(machine, "smoke", lambda _reach, *, worker, release: made.done.append(f"smoke {worker}"))
    return made


def make(world: World, limit: str = "") -> Machine:
    environment = Environment("lab", INVENTORIES / "lab")
    record = Record.new("deploy", NEW, "test")
    record.before = dict(world.current)
    return Machine(environment, fleet.hosts_of(environment, limit), record, Records(store(world.memory)), None)


def deploy(made: Machine, *, provision: bool = False) -> None:
    made.deploy(Release(NEW, Path("/nowhere"), "0" * 64), provision=provision)


def kept(world: World) -> Record:
    (record,) = Records(store(world.memory)).list()
    return record


class TestMachine:
    def test_workers_then_web_hosts_then_the_proof(self, world: World) -> None:
        deploy(make(world))
        assert world.done == [
            "install worker1,worker2,web1,web2 new",
            "migrate web1 new",
            *(f"switch {host} new" for host in HOSTS),
            "smoke worker1",
            "smoke worker2",
        ]
        record = kept(world)
        assert record.result == records.DONE
        assert [step.result for step in record.steps] == ["done"] * 7
        assert record.before == dict.fromkeys(HOSTS, OLD)

    def test_hosts_that_were_switched_return_the_last_first(self, world: World) -> None:
        world.broken = lambda playbook, limit, version: (playbook, limit) == ("release-switch", "web2")
        with pytest.raises(Failure, match="web2 does not work"):
            deploy(make(world))
        assert world.done[-3:] == ["switch web1 old", "switch worker2 old", "switch worker1 old"]
        assert world.current == dict.fromkeys(HOSTS, OLD)
        record = kept(world)
        assert (record.result, record.message) == (records.RETURNED, "web2 does not work")
        assert "failed: web2 does not work" in [step.result for step in record.steps]
        assert Records(store(world.memory)).unfinished() is None

    def test_hosts_return_when_the_proof_fails(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_reach: object, **_named: str) -> None:
            raise Failure("a wrong answer")

        monkeypatch.setattr(machine, "smoke", refuse)
        with pytest.raises(Failure, match="a wrong answer"):
            deploy(make(world))
        assert world.current == dict.fromkeys(HOSTS, OLD)

    def test_a_host_that_cannot_return_is_named_and_the_others_return(self, world: World) -> None:
        world.broken = lambda playbook, limit, version: limit == "web2" or (limit == "worker2" and version == OLD)
        with pytest.raises(Failure, match=r"not back on what they had: worker2 \(has .*bbb.*, had .*aaa"):
            deploy(make(world))
        assert world.current["worker1"] == OLD
        assert kept(world).result == records.FAILED
        unfinished = Records(store(world.memory)).unfinished()
        assert unfinished is not None

    def test_a_host_that_died_in_its_switch_counts_as_not_returned(self, world: World) -> None:
        world.broken = lambda playbook, limit, version: (playbook, limit) == ("release-switch", "worker1")
        world.stuck = {"worker1"}
        with pytest.raises(Failure, match="not back on what they had: worker1"):
            deploy(make(world))
        assert kept(world).result == records.FAILED

    def test_nothing_is_returned_when_nothing_was_switched(self, world: World) -> None:
        world.broken = lambda playbook, limit, version: playbook == "release-migrate"
        with pytest.raises(Failure):
            deploy(make(world))
        assert world.done == ["install worker1,worker2,web1,web2 new", "migrate web1 new"]
        assert kept(world).result == records.RETURNED

    def test_workers_keep_the_release_of_a_web_host_that_stays(self, world: World) -> None:
        """One that is the last to serve is not drained again."""
        world.broken = lambda playbook, limit, version: limit == "web2" or (limit == "web1" and version == OLD)
        world.stuck = {"web2"}
        with pytest.raises(Failure, match=r"not back on what they had: worker1 .* worker2 .* web1 .* web2"):
            deploy(make(world))
        assert world.done[-1] == "switch web1 old"
        assert world.current == {**dict.fromkeys(HOSTS, NEW), "web2": OLD}
        assert kept(world).result == records.FAILED

    def test_one_that_goes_on_says_what_differs_though_it_switched_nothing(self, world: World) -> None:
        made = make(world)
        made.interrupted = True
        world.current["worker1"] = NEW
        world.broken = lambda playbook, limit, version: playbook == "release-install"
        with pytest.raises(Failure, match="not back on what they had: worker1") as failed:
            deploy(made)
        assert "./inv rollback" in failed.value.hint
        assert kept(world).result == records.FAILED
        assert "./inv rollback" in kept(world).message

    def test_a_first_deployment_has_nothing_to_return_to(self, world: World) -> None:
        world.current = dict.fromkeys(HOSTS, "")
        world.broken = lambda playbook, limit, version: limit == "web2"
        with pytest.raises(Failure):
            deploy(make(world))
        assert world.done[-1] == "switch web2 new"

    def test_an_interruption_returns_nothing_and_is_resumed(self, world: World) -> None:
        def interrupt(playbook: str, limit: str, version: str) -> bool:
            if (playbook, limit) == ("release-switch", "web1"):
                raise KeyboardInterrupt
            return False

        world.broken = interrupt
        with pytest.raises(KeyboardInterrupt):
            deploy(make(world))
        assert world.current["worker1"] == NEW
        unfinished = Records(store(world.memory)).unfinished()
        assert unfinished is not None
        assert unfinished.open_step == "switch web1"

    def test_the_hosts_are_prepared_first_and_that_is_kept_too(self, world: World) -> None:
        deploy(make(world), provision=True)
        assert world.done[:2] == ["site", "install worker1,worker2,web1,web2 new"]
        assert kept(world).steps[0].name == "hosts"

    def test_hosts_that_cannot_be_prepared_leave_a_record(self, world: World) -> None:
        world.broken = lambda playbook, limit, version: playbook == "site"
        with pytest.raises(Failure, match="site does not work"):
            deploy(make(world), provision=True)
        assert world.done == ["site"]
        assert kept(world).message == "site does not work"

    @pytest.mark.parametrize(
        ("limit", "installed", "web"), [("web2,worker1", "worker1,web2", "web2"), ("worker1", "worker1,web1", "web1")]
    )
    def test_a_limit_works_without_the_hosts_that_it_leaves_out(
        self, world: World, limit: str, installed: str, web: str
    ) -> None:
        """But for a web host to migrate from and to prove workers through, which has the release then."""
        deploy(make(world, limit))
        assert world.done[:3] == [f"install {installed} new", f"migrate {web} new", "switch worker1 new"]
        through = {told["release_probe_through"] for told in world.told if "release_probe_through" in told}
        assert through == {web}

    def test_a_load_balancer_that_does_not_answer_is_not_asked(self, world: World) -> None:
        world.silent = ["lb1"]
        deploy(make(world))
        away = [told["web_loadbalancers_away"] for told in world.told if "web_loadbalancers_away" in told]
        assert away == [[], [], ["lb1"], ["lb1"]], "workers are not drained"

    def test_without_any_load_balancer_no_web_host_is_touched(self, world: World) -> None:
        world.silent = ["lb1", "lb2"]
        with pytest.raises(Failure, match=r"No load balancer answers .* web1 is drained: lb1, lb2"):
            deploy(make(world))
        assert "switch web1 new" not in world.done
        assert world.current == dict.fromkeys(HOSTS, OLD)

    def test_a_record_that_cannot_be_kept_for_a_while_spoils_nothing(self, world: World) -> None:
        """Neither a switch that went well, nor the way back of that host."""

        def away_after_worker2(playbook: str, limit: str, version: str) -> bool:
            world.memory.away = (playbook, limit, version) == ("release-switch", "worker2", NEW)
            return (playbook, limit) == ("release-switch", "web2")

        real = Records.save_if_possible

        def comes_back(self: Records, record: Record) -> None:
            real(self, record)
            world.memory.away = False

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Records, "save_if_possible", comes_back)
            world.broken = away_after_worker2
            with pytest.raises(Failure, match="web2 does not work"):
                deploy(make(world))
        assert world.done[-3:] == ["switch web1 old", "switch worker2 old", "switch worker1 old"]
        assert world.current == dict.fromkeys(HOSTS, OLD)

    def test_a_contraction_that_failed_says_so_and_stops_no_deployment(self, world: World) -> None:
        world.broken = lambda playbook, limit, version: playbook == "release-migrate"
        made = make(world)
        made.record.operation = records.CONTRACT
        with pytest.raises(Failure):
            made.contract(NEW, ["0001"])
        assert kept(world).result == records.FAILED
        assert Records(store(world.memory)).unfinished() is None

    def test_workers_whose_processors_cannot_return_are_told_and_the_others_return(self, world: World) -> None:
        world.broken = lambda playbook, limit, version: (limit, version) in {("web1", "2"), ("worker2", "1")}
        with pytest.raises(Failure, match="web1 does not work"):
            make(world).ship("2", dict.fromkeys(HOSTS, "1"), None)
        assert [line.split()[1] for line in world.done] == ["worker1", "worker2", "web1", "worker2", "worker1"]
        assert kept(world).result == records.FAILED

    def test_processors_that_do_not_work_return(self, world: World) -> None:
        world.broken = lambda playbook, limit, version: (limit, version) == ("web1", "2")
        with pytest.raises(Failure, match="web1 does not work"):
            make(world).ship("2", dict.fromkeys(HOSTS, "1"), None)
        assert set(world.processors.values()) == {"1"}
        assert kept(world).result == records.RETURNED

    def test_a_worker_that_died_with_new_processors_did_not_return(self, world: World) -> None:
        world.stuck = {"worker2"}
        with pytest.raises(Failure, match="worker2 is gone"):
            make(world).ship("2", dict.fromkeys(HOSTS, "1"), None)
        assert world.processors["worker1"] == "1"
        assert kept(world).result == records.FAILED

    def test_every_step_needs_the_lock(self, world: World) -> None:
        made = make(world)
        made.lock = cast(lock.Lock, SimpleNamespace(check=lambda: (_ for _ in ()).throw(Failure("lost"))))
        with pytest.raises(Failure, match="lost"):
            deploy(made)
        assert world.done == []

    def test_the_release_of_the_worker_is_only_asked_for_when_all_workers_have_it(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def play(_environment: object, _playbook: str, *, limit: str, extra_vars: dict[str, str]) -> list[Change]:
            asked.append(extra_vars.get("release_probe_release", "-"))
            return []

        monkeypatch.setattr(machine, "run_playbook", play)
        made = make(world)
        made.go_to(NEW)
        assert asked == ["-", *[NEW] * 4]
        asked.clear()
        made.hosts = [host for host in made.hosts if host.name == "web1"]
        made.go_to(NEW)
        assert asked == ["-", ""]


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


class TestTheWayBack:
    """What ops/deploy.py finds out before a machine is made."""

    def test_leads_before_the_last_deployment_whatever_was_done_since(self, world: World) -> None:
        found = Records(store(world.memory))
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
            found.save(record)
        assert deploying._before(found, {}) == OLD

    def test_the_new_record_is_there_before_the_old_one_is_closed(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = Records(store(world.memory))
        resumed, record = Record.new("deploy", NEW, ""), Record.new("deploy", NEW, "")
        resumed.id, record.id = "1", "2"
        resumed.result, resumed.before = records.INTERRUPTED, {"web1": "older"}
        found.save(resumed)
        open_ones: list[list[str]] = []
        real = Records.save

        def save(self: Records, one: Record) -> None:
            real(self, one)
            open_ones.append([other.id for other in self.list() if other.result in records.OPEN])

        monkeypatch.setattr(Records, "save", save)
        environment = Environment("lab", INVENTORIES / "lab")
        hosts = fleet.hosts_of(environment)
        deploying._machine(environment, hosts, record=record, kept=found, held=None, resumed=resumed)
        assert open_ones == [["2", "1"], ["2"]]
        assert record.before == {**dict.fromkeys(HOSTS, OLD), "web1": "older"}

    def test_a_contraction_looks_again_when_it_has_the_lock(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Somebody else may deploy while the question waits for its answer."""
        monkeypatch.setattr(deploying, "Store", lambda _environment: store(world.memory))

        def answer(*_: object, **__: object) -> None:
            world.current["web1"] = NEW

        monkeypatch.setattr(deploying, "name_again", answer)
        monkeypatch.setattr(
            fleet,
            "ask",
            lambda environment, hosts: {
                name: Releases(name, releases.current, "", [OLD, NEW], {OLD: "0001"})
                for name, releases in world.ask(environment, hosts).items()
            },
        )
        with pytest.raises(SystemExit):
            deploying.contract.body(None, env="lab")
        assert "different releases" in capsys.readouterr().err
        assert not world.done

    def test_a_deployment_looks_again_when_it_has_the_lock(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One whose process had just died held the lock when this one began."""
        monkeypatch.setattr(deploying, "Store", lambda _environment: store(world.memory))
        monkeypatch.setattr(deploying, "_lab_up", lambda environment: environment)
        monkeypatch.setattr(deploying.release, "check", lambda *_: "somebody")
        died = Record.new("deploy", NEW, "")
        died.before = dict.fromkeys(HOSTS, OLD)

        def find(version: str) -> Release:
            Records(store(world.memory)).save(died)
            return Release(version, Path("/nowhere"), "0" * 64)

        monkeypatch.setattr(deploying.release, "find", find)
        with pytest.raises(SystemExit) as ended:
            deploying.deploy.body(None, env="lab", release_=NEW, provision=False)
        assert ended.value.code == Exit.TEMPORARY
        assert "./inv deploy --resume" in capsys.readouterr().err
        assert not world.done

    def test_a_rollback_looks_again_when_it_has_the_lock(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(deploying, "Store", lambda _environment: store(world.memory))
        targets = iter([OLD, NEW])
        monkeypatch.setattr(deploying, "_before", lambda *_: next(targets))
        with pytest.raises(SystemExit) as ended:
            deploying.rollback.body(None, env="lab")
        assert ended.value.code == Exit.TEMPORARY
        assert "Somebody else has changed the environment" in capsys.readouterr().err
        assert not world.done

    @pytest.mark.parametrize("other", [{"release_": NEW}, {"limit": "web1"}])
    def test_what_is_resumed_is_what_was_begun(self, other: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            deploying.deploy.body(None, env="lab", resume=True, **other)
        assert ended.value.code == Exit.USAGE
        assert "Leave --release and --limit away" in capsys.readouterr().err

    def test_the_way_back_from_the_middle_leads_before_it(self, world: World) -> None:
        """A rollback that fails too leaves hosts where it was going, not where they were."""
        found = Records(store(world.memory))
        stopped = Record.new("deploy", NEW, "")
        stopped.id, stopped.before = "1", dict.fromkeys(HOSTS, OLD)
        found.save(stopped)
        world.current["worker1"] = world.current["worker2"] = NEW
        environment = Environment("lab", INVENTORIES / "lab")
        record = Record.new("rollback", OLD, "")
        made = deploying._machine(
            environment, fleet.hosts_of(environment), record=record, kept=found, held=None, resumed=None
        )
        world.broken = lambda playbook, limit, version: (playbook, limit) == ("release-switch", "worker2")
        with pytest.raises(Failure, match="not back on what they had: worker2"):
            made.go_to(OLD)
        assert world.current["worker1"] == OLD
        assert record.result == records.FAILED
        assert deploying._before(found, {}) == OLD

    def test_deployments_that_have_no_end_say_how_to_go_on(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(deploying, "Store", lambda _environment: store(world.memory))
        for number, operation in enumerate(("deploy", "rollback", records.SHIP)):
            record = Record.new(operation, NEW, "")
            record.id = str(number)
            Records(store(world.memory)).save(record)
        deploying.deploys.body(None, env="lab")
        ends = [line.strip() for line in capsys.readouterr().out.splitlines() if "its process has died" in line]
        died = "its process has died in 'the beginning'"
        assert ends == [died, f"{died}: ./inv rollback --to={NEW}", f"{died}: ./inv deploy --resume, or ./inv rollback"]
        with lock.held(store(world.memory), "something else"):
            deploying.deploys.body(None, env="lab")
        said = capsys.readouterr().out
        assert (said.count("the lock is held by"), said.count("its process has died")) == (1, 2), "only the newest runs"

    def test_whom_the_inventory_names_gets_the_record(self, tmp_path: Path, world: World) -> None:
        hook = ["sh", "-c", f"cat > {tmp_path}/told"]
        environment = SimpleNamespace(hosts={"web1": SimpleNamespace(variables={deploying.NOTIFY: hook})})
        record = Record.new("deploy", NEW, "")
        deploying._notify(cast(Environment, environment), record)
        assert Record.from_text((tmp_path / "told").read_text()) == record

    def test_a_notification_that_fails_stops_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        environment = SimpleNamespace(hosts={"web1": SimpleNamespace(variables={deploying.NOTIFY: ["false"]})})
        deploying._notify(cast(Environment, environment), Record.new("deploy", NEW, ""))
        assert "deploy_notify failed" in capsys.readouterr().err


class TestRecords:
    def test_survive_as_text(self) -> None:
        record = Record.new("deploy", NEW, 'it\'s "quoted"')
        record.steps.append(records.Step("install", lock.now(), 1.5, "done"))
        assert Record.from_text(record.text) == record

    def test_the_oldest_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(records, "KEPT", 2)
        memory = Memory()
        kept = Records(store(memory))
        for number in range(4):
            record = Record.new("deploy", NEW, "")
            record.id = f"2026010{number}"
            kept.save(record)
        kept.prune()
        assert [record.id for record in kept.list()] == ["20260103", "20260102"]
