"""What the storage promises to the application, on three hosts."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import secrets
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from testinfra.host import Host

from tests.support.waiting import until

REPLICAS = 3
SETTLE_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """Status, headers with small letters, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Proxy:
    """One host's proxy, as the application reaches it: by TLS, with the application's key."""

    def __init__(self, address: str, tls: ssl.SSLContext, variables: Mapping[str, Any]) -> None:
        self._address, self._port, self._tls = address, int(variables["site_storage_port"]), tls
        self._login = f"{variables['storage_account']}:{variables['storage_user']}", variables["storage_app_key"]
        self._container = f"/v1/AUTH_{variables['storage_account']}/{variables['storage_container']}"

    def connection(self) -> http.client.HTTPSConnection:
        """A new connection."""
        return http.client.HTTPSConnection(self._address, self._port, context=self._tls, timeout=30)

    def plain(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = None) -> Answer:
        """A request as it is."""
        connection = self.connection()
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def login(self, user: str | None = None, key: str | None = None) -> Answer:
        """An answer with a token, if the user and the key are right."""
        headers = {"X-Auth-User": user or self._login[0], "X-Auth-Key": key or self._login[1]}
        return self.plain("GET", "/auth/v1.0", headers)

    def object(self, method: str, name: str, body: Any = None, query: str = "", **headers: str) -> Answer:
        """A request for an object. The token is got anew each time: it is lost with the host that remembers it."""
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        token = self.login().headers["x-auth-token"]
        return self.plain(method, f"{self._container}/{name}{query}", {**sent, "X-Auth-Token": token}, body)


@pytest.fixture(scope="module")
def known(inventory: Any) -> Mapping[str, Any]:
    """Variables that are the same on all hosts."""
    return inventory.variables("data1")


@pytest.fixture(scope="module")
def proxies(hosts: Mapping[str, Host], known: Mapping[str, Any]) -> dict[str, Proxy]:
    """The proxy of each host."""
    tls = ssl.create_default_context(cadata=hosts["data1"].file("/etc/longhaul/pki/ca.crt").content_string)
    return {name: Proxy(known["hostvars"][name]["ansible_host"], tls, known) for name in hosts}


def md5(content: bytes) -> str:
    """The ETag of a content."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def new_object(size: int = 100_000) -> tuple[str, bytes]:
    """A name and a content that nothing else has."""
    return f"test/{secrets.token_hex(8)}", secrets.token_bytes(size)


def copies(hosts: Mapping[str, Host], content: bytes) -> list[str]:
    """Names of the hosts whose disk has exactly this content."""
    digest = md5(content)
    find = "find /srv/node -name '*.data' -mmin -10 -exec md5sum {} +"
    return [name for name in hosts if digest in hosts[name].run(find).stdout]


@contextmanager
def stopped(host: Host) -> Iterator[None]:
    """Without one host's storage; it is back afterwards."""
    units = "'swift-*.service' hitch memcached rsync"
    active = host.run(f"systemctl list-units --plain --no-legend --state=active {units} | cut -d' ' -f1").stdout.split()
    assert host.run(f"systemctl stop {' '.join(active)}").rc == 0
    try:
        yield
    finally:
        assert host.run(f"systemctl start {' '.join(active)}").rc == 0


def test_written_here_read_there(proxies: Mapping[str, Proxy]) -> None:
    """An object that was written through one proxy is read through all."""
    for writer in proxies.values():
        name, content = new_object()
        assert writer.object("PUT", name, content).status == 201
        for reader in proxies.values():
            answer = reader.object("GET", name)
            assert (answer.status, answer.body) == (200, content)
            assert answer.headers["etag"] == md5(content)


def test_three_copies_on_disk(proxies: Mapping[str, Proxy], hosts: Mapping[str, Host]) -> None:
    """Each host has its copy; at least two have it when the answer comes."""
    name, content = new_object()
    assert proxies["data1"].object("PUT", name, content).status == 201
    assert len(copies(hosts, content)) >= REPLICAS - 1
    until(lambda: len(copies(hosts, content)) == REPLICAS, seconds=SETTLE_SECONDS)


def test_repeated_put_is_recognised(proxies: Mapping[str, Proxy]) -> None:
    """If-None-Match: the second PUT of the same name is refused, and the first one's content stays."""
    name, content = new_object()
    assert proxies["data1"].object("PUT", name, content, If_None_Match="*").status == 201
    assert proxies["data2"].object("PUT", name, b"other", If_None_Match="*").status == 412
    assert proxies["data3"].object("GET", name).body == content


def test_wrong_checksum_writes_nothing(proxies: Mapping[str, Proxy]) -> None:
    """A body that does not fit its ETag is refused."""
    name, content = new_object()
    wrong = md5(b"something else")
    assert proxies["data1"].object("PUT", name, content, ETag=wrong).status == 422
    assert proxies["data1"].object("GET", name).status == 404


def test_body_of_unknown_length(proxies: Mapping[str, Proxy]) -> None:
    """A chunked body is stored whole, TLS front included."""
    name, content = new_object(3_000_000)
    pieces = (content[start : start + 70_000] for start in range(0, len(content), 70_000))
    assert proxies["data1"].object("PUT", name, pieces).status == 201
    assert proxies["data2"].object("GET", name).body == content


def test_cut_off_body_writes_nothing(proxies: Mapping[str, Proxy], known: Mapping[str, Any]) -> None:
    """A client that ends in the middle of its body leaves no object."""
    name, content = new_object()
    login = proxies["data1"].login()
    path = f"/v1/AUTH_{known['storage_account']}/{known['storage_container']}/{name}"
    connection = proxies["data1"].connection()
    connection.putrequest("PUT", path)
    connection.putheader("X-Auth-Token", login.headers["x-auth-token"])
    connection.putheader("Content-Length", str(len(content)))
    connection.endheaders()
    connection.send(content[: len(content) // 2])
    connection.close()
    time.sleep(2)
    assert proxies["data1"].object("GET", name).status == 404


def test_pieces_read_as_one(proxies: Mapping[str, Proxy], known: Mapping[str, Any]) -> None:
    """A manifest joins pieces; a range across two of them is right."""
    pieces = [new_object(50_000) for _ in range(3)]
    for name, content in pieces:
        assert proxies["data1"].object("PUT", name, content).status == 201
    manifest = json.dumps([{"path": f"/{known['storage_container']}/{name}"} for name, _ in pieces])
    joined, _ = new_object()
    made = proxies["data2"].object("PUT", joined, manifest.encode(), query="?multipart-manifest=put")
    assert made.status == 201, made.body
    whole = b"".join(content for _, content in pieces)
    assert proxies["data3"].object("GET", joined).body == whole
    part = proxies["data3"].object("GET", joined, Range="bytes=40000-59999")
    assert (part.status, part.body) == (206, whole[40000:60000])


@pytest.mark.parametrize(
    ("user", "key"), [("admin:admin", "admin"), ("test:tester", "testing"), (None, "wrong"), ("files:other", None)]
)
def test_nobody_else_gets_in(proxies: Mapping[str, Proxy], user: str | None, key: str | None) -> None:
    """The package's test users are gone, and the key must be right."""
    assert proxies["data1"].login(user, key).status == 401


def test_token_is_needed(proxies: Mapping[str, Proxy], known: Mapping[str, Any]) -> None:
    """No reading, writing or listing without a token."""
    path = f"/v1/AUTH_{known['storage_account']}/{known['storage_container']}"
    for method, tail in (("GET", ""), ("GET", "/test/x"), ("PUT", "/test/x"), ("DELETE", "/test/x")):
        assert proxies["data1"].plain(method, path + tail).status == 401


def test_reload_drops_no_request(proxies: Mapping[str, Proxy], hosts: Mapping[str, Host]) -> None:
    """A request that is running when the servers read their configuration again ends well."""
    name, content = new_object(200_000)
    servers = "swift-proxy swift-object swift-container swift-account"

    def slowly() -> Iterator[bytes]:
        yield content[:100_000]
        for host in hosts.values():
            assert host.run(f"systemctl reload {servers}").rc == 0
        time.sleep(3)
        yield content[100_000:]

    assert proxies["data1"].object("PUT", name, slowly()).status == 201
    until(lambda: proxies["data1"].object("GET", name).body == content, seconds=SETTLE_SECONDS)


def test_hosts_read_new_settings_one_after_the_other(
    proxies: Mapping[str, Proxy], hosts: Mapping[str, Host], known: Mapping[str, Any], ansible: Any
) -> None:
    """Each host has proven what it read before the next one reads it, and every PUT of that time is stored."""
    began, done, statuses = time.time(), threading.Event(), list[int]()

    def put_all_the_time() -> None:
        for proxy in itertools.cycle(proxies.values()):
            if done.wait(0.2):  # without a rest it would take the machine from those it watches
                return
            statuses.append(proxy.object("PUT", *new_object()).status)

    with ThreadPoolExecutor() as pool:
        putting = pool.submit(put_all_the_time)
        try:
            ansible.converge(storage_proxy_workers=known["storage_proxy_workers"] + 1)
        finally:
            done.set()
        putting.result()
    assert set(statuses) == {201}, statuses
    assert len(statuses) > 20, "there was hardly a PUT"
    command = f"journalctl -u swift-proxy --since=@{began:.0f} -o short-unix --no-pager --grep=^Reloaded"
    reloads = sorted(float(host.run(command).stdout.split()[0]) for host in hosts.values())
    for earlier, later in itertools.pairwise(reloads):
        assert later - earlier > known["policy_storage_reload_seconds"], f"at once: {reloads}"


def test_two_of_three_hosts_serve(proxies: Mapping[str, Proxy], hosts: Mapping[str, Host]) -> None:
    """Without one host everything goes on, and it gets its copies when it is back."""
    before, after = new_object(), new_object()
    assert proxies["data3"].object("PUT", *before).status == 201
    with stopped(hosts["data3"]):
        assert proxies["data1"].object("PUT", *after).status == 201
        assert proxies["data2"].object("GET", before[0]).body == before[1]
        assert proxies["data2"].object("GET", after[0]).body == after[1]
    for host in hosts.values():
        host.run("runuser -u swift -- swift-object-replicator /etc/swift/object-server.conf once")
    until(lambda: len(copies(hosts, after[1])) == REPLICAS, seconds=SETTLE_SECONDS)
    assert proxies["data3"].object("GET", after[0]).body == after[1]


def test_device_that_is_not_mounted_is_refused(hosts: Mapping[str, Host], ansible: Any) -> None:
    """The role stops before objects could fill the system's disk, and says where."""
    for host in hosts.values():
        assert host.run("mkdir /srv/node/absent").rc == 0
    refused = ansible.converge(check=False, storage_devices=[{"name": "d1"}, {"name": "absent"}])
    for host in hosts.values():
        assert host.run("rmdir /srv/node/absent").rc == 0
    assert refused.returncode != 0
    assert "/srv/node/absent is not a mountpoint" in refused.stdout


def test_hosts_have_the_same_rings(hosts: Mapping[str, Host]) -> None:
    """Rings and the files that they are built from are equal on all hosts, and each object has a copy on each."""
    sums = {host.run("cd /etc/swift && sha256sum *.builder *.ring.gz").stdout for host in hosts.values()}
    assert len(sums) == 1
    for ring in ("object", "container", "account"):
        told = hosts["data1"].run(f"swift-ring-builder /etc/swift/{ring}.builder").stdout
        assert f"{REPLICAS}.000000 replicas, 1 regions, {len(hosts)} zones, {len(hosts)} devices, 0.00 balance" in told


def test_replaced_host_moves_only_its_own(hosts: Mapping[str, Host], known: Mapping[str, Any], ansible: Any) -> None:
    """With another host in the place of one, the other hosts' copies stay where they are."""

    def run(name: str, **arguments: Any) -> Any:
        """What the module returned."""
        return yaml.safe_load(ansible.module(name, "swift_rings", **arguments).split(" => ", 1)[1])

    devices = known["storage_devices"]
    staying = [
        {"name": name, "address": known["hostvars"][name]["ansible_host"], "devices": devices}
        for name in ("data1", "data2")
    ]
    reports = [run(host["name"], state="read", host=host) for host in staying]
    fresh = {"name": "data4", "address": "192.0.2.44", "devices": devices, "builders": {}}
    built = run(
        "data1", state="built", hosts=[*(report["host"] for report in reports), fresh],
        members=["data1", "data2", "data4"], part_power=known["storage_part_power"],
        ports={ring: known[f"site_storage_{ring}_port"] for ring in ("object", "container", "account")},
    )  # fmt: skip
    actions = ("add data4/d1", "remove data3/d1")
    assert set(built["done"]) == {
        f"{ring}: {action}" for ring in ("object", "container", "account") for action in actions
    }
    script = """
import base64, json, pathlib, sys, tempfile
from swift.common.ring import Ring
new = pathlib.Path(tempfile.mkdtemp()) / "object.ring.gz"
new.write_bytes(base64.b64decode(sys.stdin.read()))
before, after = Ring("/etc/swift/object.ring.gz"), Ring(str(new))
moved = {(old["meta"], now["meta"]) for part in range(before.partition_count)
         for old, now in zip(before.get_part_nodes(part), after.get_part_nodes(part)) if old["meta"] != now["meta"]}
print(json.dumps(sorted(moved)))
"""
    command = f"python3 -c '{script}' <<'END'\n{built['files']['object.ring.gz']}\nEND"
    result = hosts["data1"].run(command)
    assert result.rc == 0, result.stderr
    assert json.loads(result.stdout) == [["data3", "data4"]]
