"""Decisions of the data tier's Ansible modules that a healthy cluster never shows: who is replaced or restarted."""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import itertools
import json
from base64 import b64decode
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ops.paths import ROOT


def load(name: str) -> ModuleType:
    """A module of plugins/modules, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "plugins" / "modules" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


etcd_member = load("etcd_member")
patroni_cluster = load("patroni_cluster")
postgresql_access = load("postgresql_access")
swift_rings = load("swift_rings")


class FailedError(Exception):
    """fail_json was called."""


def fail_json(msg: str, **_: Any) -> None:
    raise FailedError(msg)


# --- postgresql_access ------------------------------------------------------------------------------------------------


def test_scram_secret_is_that_of_the_standard() -> None:
    """The exchange of RFC 7677, section 3, can be finished with the secret's two keys."""
    salt = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    messages = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    secret = postgresql_access.scram_secret("pencil", salt)
    stored, server = (b64decode(part) for part in secret.rsplit("$", 1)[1].split(":"))
    assert hmac.digest(server, messages, "sha256") == b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    proof = b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    signature = hmac.digest(stored, messages, "sha256")
    client = bytes(left ^ right for left, right in zip(proof, signature, strict=True))
    assert hashlib.sha256(client).digest() == stored


def test_secret_belongs_to_one_password() -> None:
    secret = postgresql_access.scram_secret("right", b"0123456789abcdef")
    assert postgresql_access.belongs("right", secret)
    assert not postgresql_access.belongs("wrong", secret)
    assert not postgresql_access.belongs("right", "")
    assert not postgresql_access.belongs("right", "md53175bce1d3201d16594cebf9d7eb3f9d")


# --- etcd_member ------------------------------------------------------------------------------------------------------

PEERS = {name: f"https://{name}:2380" for name in ("data1", "data2", "data3")}


class Etcd:
    """A cluster behind etcdctl, and the Ansible module that asks it."""

    def __init__(self, members: dict[str, str], *, answers: bool = True, check_mode: bool = False) -> None:
        self.members = [
            {"ID": number, "name": name, "peerURLs": [url]} for number, (name, url) in enumerate(members.items(), 10)
        ]
        self.answers, self.check_mode, self.commands = answers, check_mode, list[str]()
        self.params = {"command": "etcdctl", "peers": PEERS}

    def fail_json(self, msg: str) -> None:
        fail_json(msg)

    def run_command(self, command: list[str]) -> tuple[int, str, str]:
        """What etcdctl does."""
        arguments = command[2:]
        if not self.answers:
            return 1, "", "context deadline exceeded"
        if arguments[1] != "list":
            self.commands.append(" ".join(arguments))
        if arguments[1] == "remove":
            self.members = [member for member in self.members if f"{member['ID']:x}" != arguments[2]]
        if arguments[1] == "add":
            self.members.append({"ID": 99, "peerURLs": [arguments[3].split("=")[1]]})
        return 0, json.dumps({"members": self.members}), ""


def test_member_that_lost_its_data_gets_a_new_id() -> None:
    etcd = Etcd(PEERS)
    assert etcd_member.take_place(etcd, "data3", PEERS["data3"]) == PEERS
    assert etcd.commands == ["member remove c", "member add data3 --peer-urls=https://data3:2380"]


def test_new_member_is_added() -> None:
    etcd = Etcd({name: url for name, url in PEERS.items() if name != "data2"})
    assert etcd_member.take_place(etcd, "data2", PEERS["data2"]) == PEERS
    assert etcd.commands == ["member add data2 --peer-urls=https://data2:2380"]


def test_member_that_was_added_before_takes_its_place() -> None:
    """A run that was cut off after the addition is finished by the next one."""
    etcd = Etcd({"data1": PEERS["data1"], "data2": PEERS["data2"], "": PEERS["data3"]})
    assert etcd_member.take_place(etcd, "data3", PEERS["data3"]) == PEERS
    assert etcd.commands == []


def test_dry_run_changes_no_member() -> None:
    etcd = Etcd(PEERS, check_mode=True)
    assert etcd_member.take_place(etcd, "data3", PEERS["data3"]) == PEERS
    assert etcd.commands == []


def test_no_second_cluster_when_the_first_does_not_answer() -> None:
    with pytest.raises(FailedError, match="would be a second one"):
        etcd_member.take_place(Etcd(PEERS, answers=False), "data3", PEERS["data3"])


# --- patroni_cluster --------------------------------------------------------------------------------------------------


class Patroni:
    """A cluster behind Patroni's interface: keeps what it was asked to do."""

    def __init__(self, *, leader: str, waiting: set[str], smaller: bool = False) -> None:
        """With `smaller`, replicas cannot take the parameter before the leader has."""
        self.leader, self.waiting, self.asked = leader, waiting, list[str]()
        self.smaller, self.standby = smaller, "quorum_standby"
        self.names = ("data1", "data2", "data3")

    def members(self) -> dict[str, dict[str, Any]]:
        """State of each member."""
        return {
            name: {
                "role": "leader" if name == self.leader else self.standby,
                "state": "running" if name == self.leader else "streaming",
                "api_url": f"https://{name}:8008/patroni",
                **({"pending_restart": True} if name in self.waiting else {}),
            }
            for name in self.names
        }

    def ask(self, path: str, method: str = "GET", body: Any = None, url: str | None = None) -> Any:
        """Do it."""
        self.asked.append(f"{method} {url or ''}{path}")
        if path == "/restart":
            assert url is not None
            name = url.removeprefix("https://").removesuffix(":8008")
            if name == self.leader or not (self.smaller and self.leader in self.waiting):
                self.waiting.discard(name)
        if path == "/switchover":
            self.leader = next(name for name in self.names if name != body["leader"])


def cluster(patroni: Patroni) -> Any:
    """The module's view of it."""
    view = object.__new__(patroni_cluster.Cluster)
    view.module = SimpleNamespace(fail_json=fail_json)
    config = {"synchronous_mode": "quorum", "loop_wait": 0}
    view.parameters = {"members": list(patroni.names), "timeout": 1, "config": config}
    view.interface = patroni
    return view


def test_leader_is_restarted_last_and_hands_over_first() -> None:
    patroni = Patroni(leader="data1", waiting={"data1", "data2", "data3"})
    assert cluster(patroni).restart_waiting() == ["data2", "data3", "data1"]
    assert patroni.asked == [
        "POST https://data2:8008/restart",
        "POST https://data3:8008/restart",
        "POST /switchover",
        "POST https://data1:8008/restart",
    ]


def test_leader_that_waits_for_nothing_stays() -> None:
    patroni = Patroni(leader="data1", waiting={"data3"})
    assert cluster(patroni).restart_waiting() == ["data3"]
    assert patroni.leader == "data1"


def test_a_smaller_value_begins_with_the_leader_where_it_is() -> None:
    """PostgreSQL refuses it on a replica before; a switchover would only carry the larger value on."""
    patroni = Patroni(leader="data1", waiting={"data1", "data2", "data3"}, smaller=True)
    assert cluster(patroni).restart_waiting() == ["data2", "data3", "data1", "data2", "data3"]
    assert patroni.leader == "data1"
    assert patroni.waiting == set()


def test_nobody_is_restarted_while_a_standby_could_not_lead() -> None:
    """It runs and follows, but may not have what was acknowledged."""
    patroni = Patroni(leader="data1", waiting={"data1", "data2", "data3"})
    patroni.standby = "replica"
    with pytest.raises(FailedError, match="fit to lead"):
        cluster(patroni).restart_waiting()
    assert patroni.asked == []


def test_cluster_is_settled_only_with_all_its_members() -> None:
    members = Patroni(leader="data1", waiting=set()).members()
    names = list(members)
    assert patroni_cluster.settled(members, names)
    assert not patroni_cluster.settled({**members, "data2": {"role": "replica", "state": "starting"}}, names)
    assert not patroni_cluster.settled({**members, "data1": {"role": "leader", "state": "stopped"}}, names)
    assert not patroni_cluster.settled({name: members[name] for name in ("data1", "data2")}, names)


# --- swift_rings ------------------------------------------------------------------------------------------------------


class Builder:
    """Swift's RingBuilder as far as devices go."""

    def __init__(self) -> None:
        self.devs: list[dict[str, Any] | None] = []
        self.version = 0
        self._ids = itertools.count()

    def add_dev(self, device: dict[str, Any]) -> None:
        """Add a device."""
        self.devs.append({**device, "id": next(self._ids)})

    def remove_dev(self, number: int) -> None:
        """Remove a device; as in Swift it leaves a hole."""
        self.devs = [None if device and device["id"] == number else device for device in self.devs]

    def set_dev_weight(self, number: int, weight: float) -> None:
        """Set a weight."""
        for device in self.devs:
            if device and device["id"] == number:
                device["weight"] = weight


def report(name: str, address: str, **device: Any) -> dict[str, Any]:
    """What a host says of itself."""
    return {"name": name, "address": address, "devices": [{"name": "d1", **device}]}


@pytest.fixture
def builder() -> Builder:
    """A ring of three hosts."""
    ring = Builder()
    hosts = [report(f"data{number}", f"192.0.2.4{number}") for number in (1, 2, 3)]
    assert len(swift_rings.adjust(ring, 6200, hosts, ["data1", "data2", "data3"])) == 3
    return ring


def devices(ring: Builder) -> dict[str, tuple[str, int, float]]:
    """Address, zone and weight of each host's device."""
    return {dev["meta"]: (dev["ip"], dev["zone"], dev["weight"]) for dev in ring.devs if dev}


def test_each_host_is_a_zone(builder: Builder) -> None:
    assert [zone for _, zone, _ in devices(builder).values()] == [1, 2, 3]


def test_host_that_did_not_report_keeps_its_devices(builder: Builder) -> None:
    """A host that is down, or left out by --limit, is not a host that went."""
    before = devices(builder)
    assert swift_rings.adjust(builder, 6200, [report("data1", "192.0.2.41")], ["data1", "data2", "data3"]) == []
    assert devices(builder) == before


def test_host_that_left_the_inventory_loses_its_devices(builder: Builder) -> None:
    hosts = [report("data1", "192.0.2.41"), report("data4", "192.0.2.44")]
    done = swift_rings.adjust(builder, 6200, hosts, ["data1", "data2", "data4"])
    assert done == ["add data4/d1", "remove data3/d1"]
    assert devices(builder)["data4"] == ("192.0.2.44", 4, 100.0)
    assert "data3" not in devices(builder)


def test_new_address_keeps_the_place(builder: Builder) -> None:
    """Nothing moves, and the file counts as newer than those that other hosts still have."""
    done = swift_rings.adjust(builder, 6200, [report("data2", "192.0.2.99")], ["data1", "data2", "data3"])
    assert done == ["address of data2/d1"]
    assert devices(builder)["data2"] == ("192.0.2.99", 2, 100.0)
    assert builder.version == 1


def test_new_weight(builder: Builder) -> None:
    done = swift_rings.adjust(builder, 6200, [report("data2", "192.0.2.42", weight=50)], ["data1", "data2", "data3"])
    assert done == ["weight of data2/d1"]
    assert devices(builder)["data2"][2] == 50
