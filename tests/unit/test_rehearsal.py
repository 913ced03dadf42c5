"""A rehearsal has the names and addresses of an environment, and nothing else of it."""

from __future__ import annotations

import shutil
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops import ansible, secrets, where
from ops.environment import Environment, Kind
from ops.errors import Exit, Failure
from ops.inventories import VAULT_FILE
from ops.lab import inventory, rehearsal
from ops.lab.lab import Lab
from ops.lab.network import Wiring
from ops.lab.place import Place
from ops.paths import INVENTORIES

SITES = ["192.0.2.0/24", "198.51.100.0/24"]
ENCRYPTED = "$ANSIBLE_VAULT;1.1;AES256\n6162\n"


@pytest.fixture
def prod(tmp_path: Path) -> Environment:
    """The inventory of prod, with a vault that nobody can open."""
    target = tmp_path / "inventories" / "prod"
    shutil.copytree(INVENTORIES / "prod", target)
    (target / VAULT_FILE).write_text(ENCRYPTED)
    (target / "group_vars/all/main.yml").open("a").write("deploy_notify: [curl, https://chat.example.org]\n")
    (target / "group_vars/all/pki.yml").write_text("pki_public_source: acme\n")
    return Environment("prod", target, Kind.REAL)


@pytest.fixture
def written(prod: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """What its rehearsal works from."""
    monkeypatch.setattr("ops.lab.place.LABS", tmp_path / "labs")
    monkeypatch.setattr("ops.lab.inventory.LABS", tmp_path / "labs")
    monkeypatch.setattr("ops.environment.INVENTORIES", tmp_path / "secrets")
    place = Place.rehearsal("prod")
    inventory.write(place, prod, inventory.sealed_wiring(prod), ())
    return inventory.environment_of(place, "prod")


def test_every_network_gets_a_gateway_that_is_nobody_else_s() -> None:
    wiring = Wiring.of_sites(SITES, ["203.0.113.0/24"], {"192.0.2.254", "198.51.100.10"})
    assert wiring.subnets == {
        IPv4Network("192.0.2.0/24"): "192.0.2.253",
        IPv4Network("198.51.100.0/24"): "198.51.100.254",
        IPv4Network("203.0.113.0/24"): "203.0.113.254",
    }
    assert wiring.operator == "203.0.113.254"
    assert wiring.gateway == "192.0.2.253"


def test_operators_may_stand_among_the_hosts() -> None:
    wiring = Wiring.of_sites(SITES[:1], SITES[:1], set())
    assert list(wiring.subnets.values()) == [wiring.operator]


def test_operators_may_be_everybody() -> None:
    assert Wiring.of_sites(SITES[:1], ["0.0.0.0/0"], set()).operator == "192.0.2.254"


def test_an_address_in_no_network_is_refused(prod: Environment) -> None:
    hosts = prod.inventory / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("192.0.2.51", "192.0.3.51"))
    with pytest.raises(Failure, match=r"192\.0\.3\.51 is in none of the networks") as caught:
        inventory.sealed_wiring(Environment("prod", prod.inventory, Kind.REAL))
    assert caught.value.code == Exit.BAD_CONFIGURATION


def test_names_and_addresses_are_those_of_the_real_hosts(prod: Environment, written: Environment) -> None:
    assert {name: host.address for name, host in written.hosts.items()} == {
        name: host.address for name, host in prod.hosts.items()
    }
    assert len(written.hosts) == 20
    assert written.host("dc2-web1").variables["public_address"] == "198.51.100.10"


def test_secrets_are_made_up_and_stay(prod: Environment, written: Environment) -> None:
    path = written.inventory / VAULT_FILE
    before = yaml.safe_load(path.read_text())
    assert secrets.needed(prod) <= set(before)
    assert path.stat().st_mode & 0o777 == 0o600
    inventory.write(Place.rehearsal("prod"), prod, inventory.sealed_wiring(prod), ())
    assert yaml.safe_load(path.read_text()) == before
    everything = "".join(path.read_text() for path in written.inventory.rglob("*") if path.is_file())
    assert "$ANSIBLE_VAULT" not in everything


def test_nothing_calls_out_and_only_the_lab_signs(written: Environment) -> None:
    values = written.host("web1").variables
    assert values["deploy_notify"] == []
    assert values["ansible_ssh_extra_args"] == "-F none"
    assert values["pki_public_source"] == "internal"
    assert [signer["principal"] for signer in values["release_signers"]] == ["lab"]
    assert values["site_debian_mirror"].startswith("http://192.0.2.254:")


def test_hosts_fit_into_one_machine(prod: Environment, written: Environment) -> None:
    real, rehearsed = (environment.host("data1").variables for environment in (prod, written))
    lab = Environment.of_checkout("lab").host("data1").variables
    assert [device["name"] for device in rehearsed["storage_devices"]] == [d["name"] for d in real["storage_devices"]]
    assert all("path" not in device for device in rehearsed["storage_devices"])
    assert rehearsed["lab_mounts"] == ["/srv/node/d1", "/srv/node/d2"]
    assert rehearsed["postgresql_memory_megabytes"] == lab["postgresql_memory_megabytes"]


@pytest.mark.parametrize(
    "line",
    [
        ["--search-root", "x", "deploy", "--rehearse=prod", "--yes"],
        ["--search-root", "x", "deploy", "--rehearse", "prod", "--yes"],
    ],
)
def test_the_task_within_has_the_environment_instead(line: list[str]) -> None:
    assert rehearsal.words_within(line, "prod") == ["--search-root", "x", "deploy", "--yes", "--env=prod"]


def test_an_abbreviated_option_is_refused() -> None:
    with pytest.raises(Failure) as caught:
        rehearsal.words_within(["deploy", "-r", "prod"], "prod")
    assert "--rehearse=prod" in caught.value.hint


def test_what_is_not_up_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ops.lab.place.LABS", tmp_path / "labs")
    monkeypatch.setattr("ops.lab.machine.require_root", lambda: None)
    ran: list[Any] = []
    monkeypatch.setattr(rehearsal.subprocess, "run", lambda *arguments, **_: ran.append(arguments))
    with pytest.raises(Failure, match="rehearsal of 'prod' is not up") as caught:
        rehearsal.enter("prod", ["status"])
    assert caught.value.code == Exit.TEMPORARY
    assert caught.value.hint == "Start it: ./inv lab.up --rehearse=prod"
    assert not ran


@pytest.mark.parametrize(("name", "says"), [("nothing", "no environment 'nothing'"), ("lab", "cannot be rehearsed")])
def test_what_cannot_be_rehearsed_is_refused(name: str, says: str) -> None:
    with pytest.raises(Failure, match=says) as caught:
        Lab.rehearsing(name)
    assert caught.value.code == Exit.USAGE


def test_connections_of_a_rehearsal_are_not_those_of_real_hosts() -> None:
    """ssh takes an open connection to the same address, whoever opened it."""
    name = "ANSIBLE_SSH_CONTROL_PATH_DIR"
    place = Place("re-prod")
    assert name not in ansible.settings(Environment.of_checkout("prod"))
    assert ansible.settings(inventory.environment_of(place, "prod"))[name] == str(place.directory / "cp")


def test_this_process_is_within_no_rehearsal() -> None:
    assert rehearsal.current() is None
    assert where.environment("prod").is_real


def test_rehearsals_of_two_labs_have_labs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGHAUL_LAB")
    assert Place.rehearsal("prod").name == "re-prod"
    assert Place.rehearsal("staging").name == "re-staging"
    monkeypatch.setenv("LONGHAUL_LAB", "test")
    assert Place.rehearsal("prod").name == "test-prod"
