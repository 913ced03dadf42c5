"""The inventory that a lab works from: addresses moved, the rest as it was."""

from __future__ import annotations

import re
import shutil
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from ops import secrets
from ops.environment import Environment, Kind
from ops.errors import Failure
from ops.inventories import PACKAGES_FILE
from ops.lab import inventory
from ops.lab.network import Wiring
from ops.lab.place import Place
from ops.paths import INVENTORIES

OWN, OTHER = IPv4Network("198.18.0.0/24"), IPv4Network("198.18.7.0/24")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A lab whose files are in a scratch directory, and no secrets of this checkout."""
    monkeypatch.setattr("ops.lab.place.LABS", tmp_path / "labs")
    monkeypatch.setattr("ops.lab.inventory.LABS", tmp_path / "labs")
    monkeypatch.setattr(secrets, "ensure_lab", lambda: None)
    return Place("unit")


@pytest.fixture
def source(tmp_path: Path) -> Environment:
    """The lab's inventory without its vault, in a copy that a test may change."""
    target = tmp_path / "inventories" / "lab"
    shutil.copytree(INVENTORIES / "lab", target, ignore=shutil.ignore_patterns("vault.yml"))
    return Environment("lab", target, Kind.LAB)


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("a: 198.18.0.10", "a: 198.18.7.10"),
        ("[198.18.0.0/24]", "[198.18.7.0/24]"),
        ("https://198.18.0.10:443/", "https://198.18.7.10:443/"),
        ("198.18.1.10 1198.18.0.10 10.198.18.0.1 198.18.0.x", "198.18.1.10 1198.18.0.10 10.198.18.0.1 198.18.0.x"),
    ],
)
def test_addresses_of_the_block_move_and_no_others(text: str, moved: str) -> None:
    assert inventory.relocated(text, OWN, OTHER) == moved


def test_every_host_moves_and_keeps_its_number(place: Place, source: Environment) -> None:
    written = Environment("lab", inventory.write(place, source, Wiring.of_block(OTHER), ()), Kind.LAB)
    assert list(written.hosts) == list(source.hosts)
    for name, host in source.hosts.items():
        assert written.host(name).address == host.address.replace("198.18.0.", "198.18.7.")
        assert written.host(name).groups == host.groups
    everything = "".join(path.read_text() for path in place.inventory.rglob("*") if path.is_file())
    assert not re.findall(r"198\.18\.0\.\d+", everything)
    assert not [path for path in place.inventory.rglob("*") if path.is_symlink()]


def test_the_lab_s_own_values_come_last(place: Place, source: Environment) -> None:
    written = Environment("lab", inventory.write(place, source, Wiring.of_block(OTHER), ()), Kind.LAB)
    values = written.host("web1").variables
    assert values["ansible_user"] == "ops"
    assert values["ansible_ssh_private_key_file"] == str(place.key)
    assert values["site_debian_mirror"].startswith("http://198.18.7.1:")


def test_the_block_is_found_again(place: Place, source: Environment) -> None:
    assert inventory.recorded_block(place) is None
    inventory.write(place, source, Wiring.of_block(OTHER), ())
    assert inventory.recorded_block(place) == OTHER
    assert inventory.recorded_blocks(but=Place("elsewhere")) == {OTHER: "the lab unit"}
    assert inventory.recorded_blocks(but=place) == {}


def test_writing_follows_its_source(place: Place, source: Environment) -> None:
    inventory.write(place, source, Wiring.of_block(OTHER), ())
    untouched = place.inventory / "hosts.yml"
    before = untouched.stat().st_mtime_ns
    extra = source.inventory / "group_vars/all/extra.yml"
    extra.write_text("site_name: changed\n")
    inventory.write(place, source, Wiring.of_block(OTHER), ())
    assert yaml.safe_load((place.inventory / "group_vars/all/extra.yml").read_text()) == {"site_name": "changed"}
    extra.unlink()
    inventory.write(place, source, Wiring.of_block(OTHER), ())
    assert not (place.inventory / "group_vars/all/extra.yml").exists()
    assert untouched.stat().st_mtime_ns == before


def test_secrets_are_for_their_owner_only(place: Place, source: Environment) -> None:
    (source.inventory / "group_vars/all/vault.yml").write_text("vault_x: y\n")
    inventory.write(place, source, Wiring.of_block(OTHER), ())
    assert (place.inventory / "group_vars/all/vault.yml").stat().st_mode & 0o777 == 0o600


def test_one_block_or_none(source: Environment) -> None:
    assert inventory.block_of(source) == OWN
    hosts = source.inventory / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("198.18.0.51", "198.18.9.51"))
    with pytest.raises(Failure, match=re.escape("addresses in 2: 198.18.0.0/24, 198.18.9.0/24")):
        inventory.block_of(Environment("lab", source.inventory, Kind.LAB))


def test_a_lab_has_a_lock_of_packages_of_its_own(place: Place, source: Environment) -> None:
    """That of its source names a snapshot which the lab's hosts have not; its own stays."""
    locked = source.inventory / PACKAGES_FILE
    locked.write_text("base_apt_snapshot: of-real-hosts\n")
    inventory.write(place, source, Wiring.of_block(OTHER), ())
    own = place.inventory / PACKAGES_FILE
    assert not own.exists()
    own.write_text("base_apt_snapshot: of-the-lab\n")
    inventory.write(place, source, Wiring.of_block(OTHER), ())
    assert own.read_text() == "base_apt_snapshot: of-the-lab\n"
