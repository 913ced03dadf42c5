"""What users and upload clients meet at a balancer, with stand-ins for the web hosts behind it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from roles.conftest import Hosts
from tests.support.waiting import until

ROLE_HOSTS = ["lb1"]
WEB = ["web1", "web2"]
UPLOAD = "/files/secret-key/upload-1"
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
HTTP2_SETTINGS, HTTP2_INITIAL_WINDOW = 4, 4


@pytest.fixture(scope="module")
def authority(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The authority that users trust, in a file."""
    path: Path = tmp_path_factory.mktemp("tls") / "ca.crt"
    path.write_text(hosts["lb1"].check_output("cat /etc/longhaul/pki/ca.crt"))
    return str(path)


class Balancer:
    """The balancer as a client on this machine reaches it, under its public name."""

    def __init__(self, address: str, name: str, authority: str) -> None:
        self.address, self.name = address, name
        self._tls = ssl.create_default_context(cafile=authority)

    def socket(self, *protocols: str) -> ssl.SSLSocket:
        """A TLS connection; `protocols` are offered by ALPN."""
        if protocols:
            self._tls.set_alpn_protocols(protocols)
        plain = socket.create_connection((self.address, 443), 60)
        return self._tls.wrap_socket(plain, server_hostname=self.name)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
        """Send a request on a connection of its own; the answer's body is read into its attribute `text`."""
        connection = http.client.HTTPSConnection(self.address)
        connection.sock = self.socket("http/1.1")
        lines = {"Host": self.name} | {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, lines)
        response = connection.getresponse()
        response.text = response.read().decode()  # type: ignore[attr-defined]
        connection.close()
        return response


@pytest.fixture(autouse=True)
def whole(hosts: Hosts) -> None:
    """Each test begins with two web hosts that are up, whatever the one before has left."""
    for name in WEB:
        hosts[name].check_output("rm -f /run/drain; systemctl start stand-in.service")
    until(lambda: set(web_states(hosts["lb1"]).values()) == {"UP"})


@pytest.fixture
def balancer(variables: Mapping[str, Any], authority: str) -> Balancer:
    return Balancer(variables["ansible_host"], variables["haproxy_public_name"], authority)


def tell(host: Host, command: str) -> str:
    """Give HAProxy a command; returns its answer."""
    return host.check_output("python3 -c %s %s", _TELL, command)


_TELL = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); "
    "s.sendall(sys.argv[1].encode() + b'\\n'); print(s.makefile().read())"
)


def web_states(host: Host) -> dict[str, str]:
    """What HAProxy thinks of each web host."""
    rows = [line.split(",") for line in tell(host, "show stat web 4 -1").splitlines() if line.startswith("web,")]
    return {row[1]: row[17].split()[0] for row in rows}


@contextmanager
def without(hosts: Hosts, *names: str) -> Iterator[None]:
    """Stop the stand-ins of some web hosts, and wait until HAProxy has seen it."""
    for name in names:
        hosts[name].check_output("systemctl stop stand-in.service")
    until(lambda: all(web_states(hosts["lb1"])[name] == "DOWN" for name in names))
    try:
        yield
    finally:
        for name in names:
            hosts[name].check_output("systemctl start stand-in.service")
        until(lambda: set(web_states(hosts["lb1"]).values()) == {"UP"})


def journal(host: Host, request_id: str) -> list[dict[str, Any]]:
    """The lines about a request in HAProxy's journal."""
    command = "journalctl --unit=haproxy.service --output=cat --grep=%s --no-pager"
    lines = host.run(command, request_id).stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_port_80_sends_on_to_https(balancer: Balancer) -> None:
    connection = http.client.HTTPConnection(balancer.address, timeout=10)
    connection.request("POST", "/files/", b"x", {"Host": "somewhere.else"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (308, f"https://{balancer.name}/files/")


def test_web_hosts_learn_who_asks_and_nobody_can_pretend(balancer: Balancer) -> None:
    answer = balancer.ask("GET", "/", X_Forwarded_For="203.0.113.9", X_Request_ID="forged", X_Forwarded_Proto="http")
    seen = json.loads(answer.text)  # type: ignore[attr-defined]
    assert seen["x-request-id"] == answer.headers["X-Request-ID"] != "forged"
    assert seen["x-forwarded-proto"] == "https"
    assert seen["x-forwarded-host"] == balancer.name
    with balancer.socket() as own:
        assert seen["x-forwarded-for"] == own.getsockname()[0]
    assert answer.headers["Strict-Transport-Security"]


def test_requests_are_spread(balancer: Balancer) -> None:
    assert {balancer.ask("GET", "/").headers["X-Web"] for _ in range(6)} == set(WEB)


def test_log_tells_the_upload_but_not_its_key(host: Host, balancer: Balancer) -> None:
    head = balancer.ask("HEAD", UPLOAD).headers["X-Request-ID"]
    line = until(lambda: journal(host, head))[0]
    assert (line["method"], line["path"], line["upload_id"], line["status"]) == (
        "HEAD",
        "/files/-/upload-1",
        "upload-1",
        200,
    )
    assert line["web"] in WEB
    digests = balancer.ask("GET", f"{UPLOAD}/digests").headers["X-Request-ID"]
    line = until(lambda: journal(host, digests))[0]
    assert (line["method"], line["path"], line["upload_id"], line["status"]) == (
        "GET",
        "/files/-/digests",
        "upload-1",
        200,
    )
    created = balancer.ask("POST", "/files/?secret-key").headers["X-Request-ID"]
    line = until(lambda: journal(host, created))[0]
    assert (line["method"], line["path"], line["upload_id"], line["status"]) == ("POST", "/files/", "upload-1", 201)
    for path in ("//files/secret-key/x", "/a/files/secret-key/x", "/files/secret-key/more/x"):
        balancer.ask("GET", path)
    assert "secret-key" not in host.check_output("journalctl --unit=haproxy.service --output=cat --no-pager")


def test_http2_with_room_for_fast_uploads(balancer: Balancer, variables: Mapping[str, Any]) -> None:
    with balancer.socket("h2", "http/1.1") as connection:
        assert connection.selected_alpn_protocol() == "h2"
        connection.sendall(HTTP2_PREFACE)
        head = _exactly(connection, 9)
        assert head[3] == HTTP2_SETTINGS
        body = _exactly(connection, int.from_bytes(head[:3]))
    settings = {
        int.from_bytes(body[place : place + 2]): int.from_bytes(body[place + 2 : place + 6])
        for place in range(0, len(body), 6)
    }
    assert settings[HTTP2_INITIAL_WINDOW] == variables["policy_balancer_h2_window_bytes"]


def _exactly(connection: ssl.SSLSocket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, "the connection was closed"
        data += more
    return data


def test_keepalived_can_ask_and_the_world_cannot(host: Host, balancer: Balancer) -> None:
    assert host.check_output("python3 -c %s https://127.0.0.1/balancer-health", _GET) == "ok"
    outside = balancer.ask("GET", "/balancer-health")
    assert outside.headers["X-Web"] in WEB  # an ordinary path, answered by the application


_GET = (
    "import ssl, sys, urllib.request as r; "
    "print(r.urlopen(sys.argv[1], context=ssl._create_unverified_context()).read().decode())"
)


def test_a_draining_host_gets_nothing_new_even_after_a_reload(host: Host, hosts: Hosts, balancer: Balancer) -> None:
    hosts["web1"].check_output("touch /run/drain")
    try:
        until(lambda: web_states(host)["web1"] == "NOLB")
        assert {balancer.ask("GET", "/").headers["X-Web"] for _ in range(6)} == {"web2"}
        host.check_output("systemctl reload haproxy.service")
        until(lambda: web_states(host)["web1"] == "NOLB")
        assert {balancer.ask("GET", "/").headers["X-Web"] for _ in range(6)} == {"web2"}
    finally:
        hosts["web1"].check_output("rm /run/drain")
    until(lambda: web_states(host)["web1"] == "UP")


def test_a_reload_does_not_cut_an_upload(host: Host, balancer: Balancer) -> None:
    with balancer.socket("http/1.1") as connection:
        connection.sendall(f"PATCH {UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n".encode() + b"x" * 1000)
        time.sleep(0.5)
        host.check_output("systemctl reload haproxy.service")
        connection.sendall(b"x" * 1000)
        time.sleep(0.5)
        connection.sendall(b"x" * 1000)
        answer = connection.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 204 ")
    assert "Upload-Offset: 3000" in re.sub("upload-offset", "Upload-Offset", answer)


def test_an_old_process_ends_by_the_policy(host: Host, balancer: Balancer, variables: Mapping[str, Any]) -> None:
    """Not with its last upload, which may take a week. With a short limit, else the test would take minutes."""
    limit = f"hard-stop-after {variables['policy_balancer_hard_stop_seconds']}s"
    with other_settings(host, {limit: "hard-stop-after 3s"}), balancer.socket("http/1.1") as connection:
        connection.sendall(f"PATCH {UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n".encode())
        time.sleep(0.5)  # for the request to be under way
        host.check_output("systemctl reload haproxy.service")
        began = time.monotonic()
        until(lambda: len(workers(host)) == 2)
        until(lambda: len(workers(host)) == 1)
        assert time.monotonic() - began > 2


@contextmanager
def other_settings(host: Host, changes: Mapping[str, str]) -> Iterator[None]:
    """Replace parts of the configuration (regular expressions) while the block runs.

    For a moment the old process may still be the one that accepts a connection: that is waited for.
    """
    for old in changes:
        host.check_output("grep -q -- %s /etc/haproxy/haproxy.cfg", old)
    edits = "; ".join(f"s/{old}/{new}/" for old, new in changes.items())
    _reload(host, "cp -a haproxy.cfg kept && sed -i %s haproxy.cfg", edits)
    try:
        yield
    finally:
        _reload(host, "mv kept haproxy.cfg")


def _reload(host: Host, change: str, *words: str) -> None:
    before = workers(host)
    host.check_output(f"cd /etc/haproxy && {change} && systemctl reload haproxy.service", *words)
    until(lambda: (now := accepting(host)) and not now & before)


def accepting(host: Host) -> set[str]:
    """Those of `workers` that accept connections. An old one that does not may stay for as long as one that it has."""
    return workers(host) & set(re.findall(r"pid=(\d+)", host.check_output("ss -Hltnp sport = :443")))


def workers(host: Host) -> set[str]:
    """The processes of HAProxy that serve requests: one, and those that a reload has left to theirs."""
    return set(host.check_output("pgrep -u haproxy -x haproxy").split())


def test_a_dead_host_costs_nobody_an_error(hosts: Hosts, balancer: Balancer) -> None:
    """Also in the second before the health checks have seen it: what never left is sent to the other one."""
    hosts["web2"].check_output("systemctl stop stand-in.service")
    try:
        answers = [balancer.ask("POST", "/files/", b"x") for _ in range(4)]
    finally:
        hosts["web2"].check_output("systemctl start stand-in.service")
    assert [answer.status for answer in answers] == [201] * 4
    until(lambda: set(web_states(hosts["lb1"]).values()) == {"UP"})


def test_what_a_web_host_says_of_an_upload_is_passed_on(balancer: Balancer) -> None:
    assert balancer.ask("HEAD", "/files/secret-key/gone").status == 404


def test_a_host_that_dies_over_an_upload_makes_no_client_start_anew(hosts: Hosts, balancer: Balancer) -> None:
    answer = balancer.ask("PATCH", "/files/secret-key/dies", b"x" * 100_000)
    assert answer.status == 423
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    until(lambda: set(web_states(hosts["lb1"]).values()) == {"UP"})


def test_without_any_web_host_uploads_wait_and_people_read_what_to_do(
    hosts: Hosts, balancer: Balancer, variables: Mapping[str, Any]
) -> None:
    with without(hosts, *WEB), ThreadPoolExecutor() as pool:
        began = time.monotonic()
        head = pool.submit(balancer.ask, "HEAD", UPLOAD)
        assert balancer.ask("PATCH", UPLOAD, b"x").status == 423
        page = balancer.ask("GET", "/")
        creation = balancer.ask("POST", "/files/")
        assert time.monotonic() - began < variables["policy_balancer_hold_seconds"] / 2
        assert head.result().status == 423
        assert time.monotonic() - began >= variables["policy_balancer_hold_seconds"]
    assert page.status == creation.status == 503
    assert page.headers["Retry-After"]
    assert page.headers["X-Request-ID"] in page.text  # type: ignore[attr-defined]


def test_timeouts_cut_the_silent_and_never_the_slow(host: Host, balancer: Balancer) -> None:
    """With short time-outs, else the test would take minutes."""
    short = {"timeout client .*": "timeout client 3s", "timeout http-request .*": "timeout http-request 2s"}
    with other_settings(host, short), ThreadPoolExecutor() as pool:
        slow = pool.submit(trickle, balancer, UPLOAD, pieces=12, every=0.5)  # twice the time-out
        silent = pool.submit(trickle, balancer, UPLOAD, pieces=1, every=0)
        half_a_head = pool.submit(unfinished, balancer, f"HEAD {UPLOAD} HTTP/1.1\r\nHost: x\r\n")
    assert slow.result().startswith("HTTP/1.1 204 ")
    assert silent.result().startswith("HTTP/1.1 423 ")  # and not 400 or 408, which end an upload
    assert half_a_head.result() == ""


def trickle(balancer: Balancer, path: str, *, pieces: int, every: float) -> str:
    """Send pieces of 100 bytes of 12 that are announced; returns the answer."""
    with balancer.socket("http/1.1") as connection:
        connection.sendall(f"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1200\r\n\r\n".encode())
        for _ in range(pieces):
            connection.sendall(b"x" * 100)
            time.sleep(every)
        return connection.recv(4096).decode()


def unfinished(balancer: Balancer, text: str) -> str:
    """Send the beginning of a request and nothing more; returns the answer."""
    with balancer.socket("http/1.1") as connection:
        connection.sendall(text.encode())
        return connection.recv(4096).decode()


def test_a_host_with_a_certificate_of_somebody_else_gets_no_requests(host: Host, variables: Mapping[str, Any]) -> None:
    """web1's certificate is good, and not good for web2."""
    addresses = {name: variables["hostvars"][name]["ansible_host"] for name in WEB}
    tell(host, f"set server web/web2 addr {addresses['web1']}")
    try:
        until(lambda: web_states(host) == {"web1": "UP", "web2": "DOWN"})
    finally:
        tell(host, f"set server web/web2 addr {addresses['web2']}")
    until(lambda: set(web_states(host).values()) == {"UP"})


def test_the_challenges_of_an_acme_server_reach_whoever_asked(
    host: Host, balancer: Balancer, variables: Mapping[str, Any]
) -> None:
    """The other balancer of the inventory is not up, and this one answers."""
    program = (
        "import http.server as h\n"
        "class A(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(self.path.encode())\n"
        f'h.HTTPServer(("{variables["ansible_host"]}", {variables["haproxy_acme_port"]}), A).serve_forever()\n'
    )
    host.check_output("systemd-run --unit=acme-stand-in python3 -c %s", program)
    try:
        for _ in range(4):
            connection = http.client.HTTPConnection(balancer.address, timeout=20)
            until(lambda: host.run("ss -tln | grep -q :%s", str(variables["haproxy_acme_port"])).rc == 0)
            connection.request("GET", "/.well-known/acme-challenge/token")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"/.well-known/acme-challenge/token")
    finally:
        host.check_output("systemctl stop acme-stand-in.service")


def test_the_service_is_confined(host: Host) -> None:
    exposure = host.check_output("systemd-analyze security --no-pager haproxy.service | tail -1")
    assert float(re.findall(r"\d+\.\d+", exposure)[0]) < 5, exposure
