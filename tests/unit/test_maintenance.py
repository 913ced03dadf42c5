"""Which hosts may be taken out of service on a site that is not well, and what is done to them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any, cast

import pytest
import yaml

from ops import maintenance
from ops.deployment.lock import Lock as Held
from ops.environment import Environment, Host
from ops.errors import Failure
from ops.package_lock import PackageLock
from ops.packages import change as packages
from ops.packages.installed import Installed
from ops.paths import PLAYBOOKS
from ops.status import UNITS, HostStatus, judge

GROUPS = {
    "lb1": ["loadbalancers"],
    "lb2": ["loadbalancers"],
    "web1": ["web"],
    "web2": ["web"],
    "data1": ["database", "storage"],
    "data2": ["database", "storage"],
    "data3": ["database", "storage"],
    "worker1": ["workers"],
}
HOSTS = {name: Host(name, frozenset(groups), {"public_address": "192.0.2.1"}) for name, groups in GROUPS.items()}
BALANCED = {"web1": "UP", "web2": "UP"}
MEMBERS = {"data1": "leader running", "data2": "quorum_standby streaming", "data3": "quorum_standby streaming"}
LEFT = {"web1": {"drained": maintenance.DRAIN_REASON}, "lb1": {"balanced": {**BALANCED, "web1": "NOLB"}}}
"""A web host that an earlier run has drained, and how it looks from a load balancer."""
DEAD = {
    "data2": {"units": {"patroni.service": "failed"}, "members": "no answer: connection refused"},
    "data1": {"members": {**MEMBERS, "data2": "quorum_standby stopped"}},
    "data3": {"members": {**MEMBERS, "data2": "quorum_standby stopped"}},
}


def site(said: Mapping[str, Mapping[str, Any]] | None = None) -> list[HostStatus]:
    """A site whose hosts say that all is well, but for what they have `said`."""
    found = []
    for name, groups in GROUPS.items():
        host = HostStatus(name, "", groups)
        units = {unit: "active" for group in groups for unit in UNITS[group]}
        given = dict((said or {}).get(name, {}))
        host.said = {
            "drained": "",
            "addresses": ["192.0.2.1"] if name == "lb2" else [],
            **({"balanced": BALANCED} if "loadbalancers" in groups else {}),
            **({"members": MEMBERS} if "database" in groups else {}),
            **given,
            "units": units | given.get("units", {}),
        }
        judge(host)
        found.append(host)
    return found


def hosts(*names: str) -> list[Host]:
    return [HOSTS[name] for name in names]


def test_a_site_that_is_well_may_lose_any_host() -> None:
    maintenance.ready(site(), list(HOSTS.values()))


@pytest.mark.parametrize(("said", "unwell"), [(LEFT, "web1"), (DEAD, "data2")], ids=["drained", "down"])
def test_the_host_that_an_earlier_run_broke_may_be_changed_again_and_is_the_first(
    said: dict[str, Any], unwell: str
) -> None:
    found = site(said)
    maintenance.ready(found, list(HOSTS.values()))
    assert maintenance.in_order(list(HOSTS.values()), found)[0].name == unwell


@pytest.mark.parametrize("to_change", [["web2"], ["web2", "worker1"], []])
def test_a_host_that_is_not_to_be_changed_must_be_well(to_change: list[str]) -> None:
    with pytest.raises(Failure, match=r"not well .*web1: drained: maintenance") as refused:
        maintenance.ready(site(LEFT), hosts(*to_change))
    assert "repair first: web1." in refused.value.hint


def test_a_second_host_must_be_well() -> None:
    said = {**LEFT, "worker1": {"units": {"longhaul-worker.service": "failed"}}}
    with pytest.raises(Failure, match=r"worker1: longhaul-worker\.service is failed"):
        maintenance.ready(site(said), list(HOSTS.values()))


def test_what_is_wrong_with_no_single_host_counts_for_all_of_them() -> None:
    """Nobody leads: to take any of the members away would not help."""
    standbys = dict.fromkeys(MEMBERS, "replica running")
    with pytest.raises(Failure, match="there is no leader"):
        maintenance.ready(site({"data1": {"members": standbys}}), list(HOSTS.values()))


def test_a_host_that_somebody_else_has_drained_is_left_to_them() -> None:
    found = site({"web1": {"drained": "switching to 20260101T000000-aaaaaaaaaaaa"}})
    with pytest.raises(Failure, match="drained: switching to 2026") as refused:
        maintenance.ready(found, hosts("web1"))
    assert "Somebody else has drained web1" in refused.value.hint
    assert maintenance.left_out(found) == []


def test_a_host_whose_services_a_run_has_stopped_is_brought_back() -> None:
    found = site({"lb1": {"units": {"haproxy.service": "active", "keepalived.service": "inactive"}}})
    assert maintenance.left_out(found) == ["lb1"]


def test_a_mark_of_the_playbook_is_known_as_its_own() -> None:
    assert f"web_drain_reason: {maintenance.DRAIN_REASON}\n" in (PLAYBOOKS / "maintain.yml").read_text()


def test_a_member_that_is_down_is_not_waited_for_and_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, dict[str, Any]]] = []

    def play(_environment: object, _name: str, *, limit: str, extra_vars: dict[str, Any]) -> None:
        ran.append((limit, extra_vars))

    monkeypatch.setattr(maintenance, "run_playbook", play)
    monkeypatch.setattr(maintenance, "status", lambda _environment: site())

    class AlwaysHeld:
        def check(self) -> None: ...

    maintenance.one_after_another(
        cast(Environment, None),
        hosts("data2", "data3"),
        site(DEAD),
        maintenance.PACKAGES,
        cast(Held, AlwaysHeld()),
    )
    down = {"maintain_packages": True, "maintain_hand_over": False, "maintain_start": ["patroni.service"]}
    up = {"maintain_packages": True, "maintain_hand_over": True, "maintain_start": []}
    assert ran == [("data2", down), ("data3", up)]


def test_the_playbook_takes_what_it_is_told() -> None:
    (play,) = yaml.safe_load((PLAYBOOKS / "maintain.yml").read_text())
    tasks = {task["name"]: task for task in play["tasks"]}
    assert "maintain_hand_over | default(true)" in tasks["Make another host the database primary"]["when"]
    assert "maintain_start" in tasks["Start what was down before"]["loop"]


class TestPackages:
    WANTED = PackageLock("20261125-0a1b2c3d", "key", {"bash": "2"})

    def bring(self, monkeypatch: pytest.MonkeyPatch, state: list[HostStatus], found: dict[str, Installed]) -> list[str]:
        """The hosts that were changed, in their order."""
        changed: list[str] = []

        @contextmanager
        def nothing(*_: object) -> Any:
            yield

        class NoRecords:
            whole = step = staticmethod(nothing)

        class OfThisSite:
            name, is_lab, is_real = "lab", True, False

            def host(self, name: str) -> Host:
                return HOSTS[name]

        def change(_environment: object, ordered: list[Host], *_: object) -> None:
            changed.extend(host.name for host in ordered)

        monkeypatch.setattr(packages, "status", lambda _environment: state)
        monkeypatch.setattr(packages, "run_playbook", lambda *_: None)
        monkeypatch.setattr(packages, "Store", lambda _environment: None)
        monkeypatch.setattr(packages, "Records", lambda _store: NoRecords())
        monkeypatch.setattr(packages, "_prove", lambda *_: None)
        monkeypatch.setattr(packages.package_lock, "read", lambda _environment: self.WANTED)
        monkeypatch.setattr(packages.package_lock, "write", lambda *_: None)
        monkeypatch.setattr(packages.lock, "held", nothing)
        monkeypatch.setattr(maintenance, "one_after_another", change)
        packages.bring_to(cast(Environment, OfThisSite()), self.WANTED, found, "test", yes=True)
        return changed

    def test_a_host_that_was_mended_serves_again_though_its_packages_are_right(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = {"web1": Installed({"bash": "2"}, []), "worker1": Installed({"bash": "1"}, [])}
        assert self.bring(monkeypatch, site(LEFT), found) == ["web1", "worker1"]

    def test_a_host_with_other_packages_that_is_down_is_brought_back_first(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = dict.fromkeys(["data2", "worker1"], Installed({"bash": "1"}, []))
        assert self.bring(monkeypatch, site(DEAD), found) == ["data2", "worker1"]

    def test_nothing_is_changed_where_all_is_as_locked_and_serves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.bring(monkeypatch, site(), {"web1": Installed({"bash": "2"}, [])}) == []
