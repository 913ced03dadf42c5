"""The steps of a deployment and its way back, on hosts whose playbooks only say their name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ops.ansible import Change
from ops.deployment import deployment, lock, releases, steps
from ops.deployment import record as records
from ops.deployment.deployment import Deployment
from ops.deployment.record import Record, Records
from ops.environment import Environment
from ops.errors import Failure
from ops.release import Release
from tests.support.fleet import HOSTS, NEW, OLD, World, store


def make(world: World, limit: str = "") -> Deployment:
    environment = Environment.of_checkout("lab")
    record = Record.new("deploy", NEW, "test")
    record.before = dict(world.current)
    return Deployment(environment, releases.hosts_of(environment, limit), record, Records(store(world.memory)), None)


def deploy(made: Deployment, *, provision: bool = False) -> None:
    made.deploy(Release(NEW, Path("/nowhere"), "0" * 64), provision=provision)


def kept(world: World) -> Record:
    (record,) = Records(store(world.memory)).list()
    return record


class TestDeployment:
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
        assert [step.name for step in record.steps] == steps.names(steps.DEPLOYMENT[1:], HOSTS)
        assert record.before == dict.fromkeys(HOSTS, OLD)

    def test_a_rollback_takes_the_steps_that_are_listed(self, world: World) -> None:
        make(world).go_to(NEW)
        assert [step.name for step in kept(world).steps] == steps.names(steps.ROLLBACK, HOSTS)

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

        monkeypatch.setattr(deployment, "prove", refuse)
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
        assert [step.name for step in kept(world).steps] == steps.names(steps.DEPLOYMENT, HOSTS)

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
        through = {told["release_smoke_test_through"] for told in world.told if "release_smoke_test_through" in told}
        assert through == {web}

    def test_a_load_balancer_that_does_not_answer_is_not_asked(self, world: World) -> None:
        world.silent = ["lb1"]
        deploy(make(world))
        away = [told["web_loadbalancers_away"] for told in world.told if "web_loadbalancers_away" in told]
        assert away == [[], [], ["lb1"], ["lb1"]], "workers are not drained"

    def test_without_any_load_balancer_no_web_host_is_touched(self, world: World) -> None:
        world.silent = ["lb1", "lb2"]
        with pytest.raises(Failure, match=r"No load balancer answers \(lb1, lb2\), .* web1 is drained"):
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
            asked.append(extra_vars.get("release_smoke_test_release", "-"))
            return []

        monkeypatch.setattr(deployment, "run_playbook", play)
        made = make(world)
        made.go_to(NEW)
        assert asked == ["-", *[NEW] * 4]
        asked.clear()
        made.hosts = [host for host in made.hosts if host.name == "web1"]
        made.go_to(NEW)
        assert asked == ["-", ""]
