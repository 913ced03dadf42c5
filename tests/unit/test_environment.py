"""Environments are what their inventories say, and nothing else."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from ops import environment, inventory_schema, where
from ops.environment import Environment, Host, Kind
from ops.errors import Exit, Failure
from ops.inventories import VAULT_FILE, environment_names
from ops.paths import INVENTORIES


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the lab's inventory that a test may spoil."""
    target = tmp_path / "inventories" / "copy"
    shutil.copytree(INVENTORIES / "lab", target, ignore=shutil.ignore_patterns("vault.yml"))
    return target


def test_groups_are_crossed_with_data_centres() -> None:
    prod = Environment.of_checkout("prod")
    assert prod.members("database") == [
        "data1",
        "data2",
        "data3",
        "dc2-data1",
        "dc2-data2",
        "dc2-data3",
    ]
    assert {"database", "storage", "dc2"} <= prod.hosts["dc2-data1"].groups
    assert "dc1" not in prod.hosts["dc2-data1"].groups


def test_hosts_keep_the_order_of_the_file() -> None:
    lab = Environment.of_checkout("lab")
    assert list(lab.hosts)[:3] == ["lb1", "lb2", "web1"]
    assert lab.host("web1").address == "198.18.0.21"


def test_child_groups_count() -> None:
    lab = Environment.of_checkout("lab")
    assert set(lab.members("dc1")) == set(lab.hosts)


def test_unknown_environment_names_those_that_exist() -> None:
    with pytest.raises(Failure) as caught:
        where.environment("produktion")
    assert "prod" in caught.value.hint
    assert caught.value.code == Exit.USAGE


def test_unknown_host_names_those_that_exist() -> None:
    with pytest.raises(Failure) as caught:
        Environment.of_checkout("lab").host("web9")
    assert "web1" in caught.value.hint


def test_listing_is_asked_for_once(copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "CACHE", tmp_path / "cache")
    assert Environment("copy", copied, Kind.REAL).members("web") == ["web1", "web2"]

    def refuse(*_: object) -> None:
        raise AssertionError("ansible-inventory was asked again")

    monkeypatch.setattr(environment, "_ask_ansible", refuse)
    assert Environment("copy", copied, Kind.REAL).members("web") == ["web1", "web2"]
    hosts = copied / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("198.18.0.21", "198.18.0.99"))
    with pytest.raises(AssertionError, match="asked again"):
        Environment("copy", copied, Kind.REAL).members("web")


def test_listing_never_holds_a_secret(copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "CACHE", tmp_path / "cache")
    (copied / "group_vars" / "all" / "vault.yml").write_text("vault_patroni_rest_password: hunter2-hunter2\n")
    assert Environment("copy", copied, Kind.REAL).members("web")
    kept = "".join(path.read_text() for path in (tmp_path / "cache").rglob("*.json"))
    assert kept
    assert "hunter2" not in kept


@pytest.mark.parametrize("name", environment_names())
def test_every_environment_fits_the_schema(name: str) -> None:
    assert list(inventory_schema.problems(INVENTORIES / name)) == []


SPOILED = [
    ("group_vars/all/main.yml", "site_name: lab", "site_nam: lab", "site_nam: unknown variable"),
    ("group_vars/all/main.yml", "site_name: lab", "site_name: [lab]", "site_name: ['lab'] is not of type 'string'"),
    ("group_vars/all/main.yml", "site_name: lab", "site_name: : lab", "not YAML"),
    (
        "group_vars/all/main.yml",
        "operator_subnets: [198.18.0.0/24]",
        "operator_subnets: [everywhere]",
        "operator_subnets.0: 'everywhere' does not match",
    ),
    ("hosts.yml", "ansible_host: 198.18.0.21", "ansible_hots: 198.18.0.21", "web1.ansible_hots: unknown variable"),
    ("hosts.yml", "ansible_host: 198.18.0.21", "ansible_host: 21", "web1.ansible_host: 21 is not of type 'string'"),
    ("hosts.yml", "workers: {hosts", "worker: {hosts", "all.children.worker: unknown group"),
    ("hosts.yml", "web: {hosts: {web1: , web2: }}", "web: {host: {web1: }}", "web.host: unknown key"),
    ("hosts.yml", "data2: , data3: }}\n    monitoring", "data2: }}\n    monitoring", "database: 2 members in dc1"),
    ("hosts.yml", "data2: , data3: }}\n    database", "data2: }}\n    database", "storage: 2 members in dc1"),
    ("hosts.yml", "    web: {hosts: {web1: , web2: }}\n", "", "all.children.web: the group needs at least one host"),
    ("hosts.yml", "all:\n", "everything:\n", "the one top-level key is 'all'"),
]


@pytest.mark.parametrize(("name", "old", "new", "message"), SPOILED)
def test_schema_names_file_and_key(copied: Path, name: str, old: str, new: str, message: str) -> None:
    path = copied / name
    text = path.read_text()
    assert old in text, "the case does not spoil anything any more"
    path.write_text(text.replace(old, new, 1))
    found = list(inventory_schema.problems(copied))
    assert any(line.startswith(f"{path}: ") and message in line for line in found), found


def test_schema_knows_every_group_folder(copied: Path) -> None:
    (copied / "group_vars" / "webb").mkdir()
    (copied / "group_vars" / "webb" / "main.yml").write_text("site_name: x\n")
    assert any("no group or host 'webb'" in line for line in inventory_schema.problems(copied))


def test_the_vault_is_not_asked_for(copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who may not read it can still ask what runs where."""
    monkeypatch.setattr(inventory_schema, "CACHE", tmp_path / "cache")
    vault = copied / VAULT_FILE
    vault.write_text("vault_patroni_rest_password: hunter2-hunter2\n")
    read = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self == vault:
            raise PermissionError(self)
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    inventory_schema.validate(copied)


def test_check_lists_all_problems_at_once(copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inventory_schema, "CACHE", tmp_path / "cache")
    inventory_schema.validate(copied)
    main = copied / "group_vars" / "all" / "main.yml"
    main.write_text(main.read_text() + "one: 1\ntwo: 2\n")
    with pytest.raises(Failure) as caught:
        inventory_schema.validate(copied)
    assert "one: unknown" in caught.value.message
    assert "two: unknown" in caught.value.message
    assert caught.value.code == Exit.BAD_CONFIGURATION


class Everybody(paramiko.ServerInterface):
    """Lets everybody in who has a key."""

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"


def serve(listener: socket.socket, key: paramiko.PKey) -> None:
    """Answer one client as sshd does."""
    connection, _ = listener.accept()
    transport = paramiko.Transport(connection)
    transport.add_server_key(key)
    with contextlib.suppress(paramiko.SSHException, EOFError):  # the client has turned away
        transport.start_server(server=Everybody())
        transport.join(10)
    transport.close()


@pytest.fixture
def shown() -> paramiko.PKey:
    """The key that the host shows."""
    return paramiko.RSAKey.generate(2048)


@pytest.fixture
def sshd(shown: paramiko.PKey, tmp_path: Path) -> Iterator[Host]:
    """A host that answers SSH once."""
    login = tmp_path / "id_rsa"
    paramiko.RSAKey.generate(2048).write_private_key_file(str(login))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener, shown), daemon=True).start()
        place = {"ansible_host": "127.0.0.1", "ansible_port": listener.getsockname()[1]}
        yield Host("web1", frozenset(), {**place, "ansible_ssh_private_key_file": str(login)})


def known_line(host: Host, key: paramiko.PKey) -> str:
    return f"[{host.address}]:{host.variables['ansible_port']} {key.get_name()} {key.get_base64()}\n"


def test_a_host_with_the_known_key_is_spoken_to(sshd: Host, shown: paramiko.PKey, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(known_line(sshd, shown))
    with Environment("copy", tmp_path, Kind.REAL).connection(sshd) as connection:
        connection.open()
        assert connection.is_connected


@pytest.mark.parametrize("known", ["none", "another"])
def test_a_host_with_another_key_is_not_spoken_to(sshd: Host, tmp_path: Path, known: str) -> None:
    before = known_line(sshd, paramiko.RSAKey.generate(2048)) if known == "another" else ""
    (tmp_path / "known_hosts").write_text(before)
    connection = Environment("copy", tmp_path, Kind.REAL).connection(sshd)
    with pytest.raises(paramiko.SSHException, match=r"not found in known_hosts|does not match"):
        connection.open()
    assert not connection.is_connected
    assert (tmp_path / "known_hosts").read_text() == before


def test_a_host_without_a_key_in_the_inventory_is_asked_with_the_users_own(tmp_path: Path) -> None:
    """As on real hosts."""
    (tmp_path / "known_hosts").touch()
    connection = Environment("copy", tmp_path, Kind.REAL).connection(Host("web1", frozenset(), {}))
    assert connection.connect_kwargs["look_for_keys"]
    assert connection.connect_kwargs["allow_agent"]
    assert not connection.connect_kwargs["key_filename"]


def test_without_known_keys_nobody_is_spoken_to(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="No host keys are known") as caught:
        Environment("copy", tmp_path, Kind.REAL).connection(Host("web1", frozenset(), {}))
    assert "host.bootstrap HOST --env=copy" in caught.value.hint
    assert caught.value.code == Exit.BAD_CONFIGURATION
