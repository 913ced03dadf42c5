"""What the inventory allows gets through, everything else does not; new rules cut nothing and lock nobody out."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from testinfra.host import Host

ROLE_HOSTS = ["lb1"]  # the tests speak of certain hosts; one run of each is enough
ALL = ["lb1", "lb2", "web1"]
UNLISTED_PORT = 9099
TRY_SECONDS = 2

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), {seconds}).close()"
# A raw socket sees packets only after the filter; 112 is VRRP.
RECEIVE_VRRP = """
import socket
receiver = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
receiver.settimeout(5)
print(receiver.recv(99)[20:])
"""
SEND_VRRP = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_RAW, 112).sendto(b"advert", (sys.argv[1], 0))
"""
PING = """
import os, socket, struct, sys
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))
number = os.getpid() & 0xFFFF
request = struct.pack("!BBHHH", 8, 0, 0, number, 1)
request = struct.pack("!BBHHH", 8, 0, checksum(request), number, 1)
wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
wire.settimeout(2)
wire.sendto(request, (sys.argv[1], 0))
while struct.unpack("!BBHHH", wire.recv(99)[20:28])[::3] != (0, number):
    pass
"""
# Answers every line with itself, as long as the connection is up.
ECHO = """
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("", {port}), Echo).serve_forever()
"""


def python(host: Host, code: str, *arguments: object) -> Any:
    """Run Python code on a host."""
    return host.run("python3 -c %s " + " ".join("%s" for _ in arguments), code, *map(str, arguments))


def address(inventory: Any, name: str) -> str:
    """The address of a host."""
    return str(inventory.variables(name)["ansible_host"])


def ports_of(inventory: Any, name: str) -> list[int]:
    """The ports of a service in the role's table."""
    services = inventory.variables("lb1")["firewall_services"]
    return [int(port) for service in services if service["name"] == name for port in service["ports"]]


@pytest.fixture(scope="module")
def listeners(hosts: Mapping[str, Host], inventory: Any) -> Iterator[None]:
    """Something listens behind every port that the tests try, so only the filter can refuse."""
    wanted = {
        "web1": [*ports_of(inventory, "web"), UNLISTED_PORT],
        "lb1": [*ports_of(inventory, "http"), *ports_of(inventory, "acme"), UNLISTED_PORT],
    }
    for name, ports in wanted.items():
        for port in ports:
            hosts[name].check_output("systemd-run --unit=%s python3 -c %s", f"listener-{port}", ECHO.format(port=port))
    for name, ports in wanted.items():
        for port in ports:
            wait_for_listener(hosts[name], port)
    yield
    for name, ports in wanted.items():
        for port in ports:
            hosts[name].check_output(f"systemctl stop listener-{port}")


def wait_for_listener(host: Host, port: int) -> None:
    """Wait until a port answers on the host itself."""
    for _ in range(50):
        if python(host, CONNECT.format(seconds=1), "127.0.0.1", port).rc == 0:
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens on port {port}")


def reaches(hosts: Mapping[str, Host], inventory: Any, source: str, target: str, port: int) -> bool:
    """Whether a connection from one host to a port of another is made within the time."""
    return bool(python(hosts[source], CONNECT.format(seconds=TRY_SECONDS), address(inventory, target), port).rc == 0)


@pytest.mark.parametrize(
    ("source", "target", "service", "allowed"),
    [
        ("lb1", "web1", "web", True),
        ("lb2", "web1", "web", True),
        ("web1", "lb1", "http", True),
        ("lb2", "lb1", "acme", True),
        ("web1", "lb1", "acme", False),
    ],
)
@pytest.mark.usefixtures("listeners")
def test_services_are_reached_by_whom_the_table_says(
    hosts: Mapping[str, Host], inventory: Any, source: str, target: str, service: str, *, allowed: bool
) -> None:
    ports = ports_of(inventory, service)
    assert ports
    for port in ports:
        assert reaches(hosts, inventory, source, target, port) is allowed


@pytest.mark.usefixtures("listeners")
def test_what_is_not_in_the_table_is_reached_by_nobody(hosts: Mapping[str, Host], inventory: Any) -> None:
    for source, target in (("lb1", "web1"), ("web1", "lb1")):
        assert not reaches(hosts, inventory, source, target, UNLISTED_PORT)
        with pytest.raises(TimeoutError):
            socket.create_connection((address(inventory, target), UNLISTED_PORT), TRY_SECONDS)


def test_hosts_answer_pings(hosts: Mapping[str, Host], inventory: Any) -> None:
    for name in ALL:
        assert python(hosts["web1"], PING, address(inventory, name)).rc == 0


@pytest.mark.parametrize(("source", "received"), [("lb2", True), ("web1", False)])
def test_only_load_balancers_speak_vrrp_to_each_other(
    hosts: Mapping[str, Host], inventory: Any, source: str, *, received: bool
) -> None:
    unit = f"vrrp-from-{source}"
    hosts["lb1"].check_output("systemd-run --unit=%s python3 -c %s", unit, RECEIVE_VRRP)
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline and hosts["lb1"].service(unit).is_running:
        assert python(hosts[source], SEND_VRRP, address(inventory, "lb1")).rc == 0
    hosts["lb1"].run("systemctl stop %s", unit)
    log = hosts["lb1"].check_output("journalctl --unit=%s --output=cat", unit)
    assert ("b'advert'" in log) is received, log


@pytest.mark.usefixtures("listeners")
def test_new_rules_cut_no_connection(inventory: Any, ansible: Any) -> None:
    port = ports_of(inventory, "http")[0]
    services = inventory.variables("lb1")["firewall_services"]
    connection = socket.create_connection((address(inventory, "lb1"), port), TRY_SECONDS)
    try:
        # From here on the port is closed to new connections.
        ansible.converge(limit="lb1", firewall_services=[service for service in services if service["name"] != "http"])
        with pytest.raises(TimeoutError):
            socket.create_connection((address(inventory, "lb1"), port), TRY_SECONDS)
        connection.settimeout(TRY_SECONDS)
        connection.sendall(b"still here\n")
        assert connection.recv(99) == b"still here\n"
    finally:
        connection.close()
        ansible.converge()


def test_rules_that_shut_us_out_are_taken_back(hosts: Mapping[str, Host], inventory: Any, ansible: Any) -> None:
    before = {name: hosts[name].check_output("nft --stateless list ruleset") for name in ALL}
    kept = {name: hosts[name].check_output("cat /etc/nftables.conf") for name in ALL}
    proof_seconds = 3
    answer = ansible.converge(check=False, operator_subnets=["203.0.113.0/24"], __firewall_proof_seconds=proof_seconds)
    assert answer.returncode != 0
    assert "The new rules refuse SSH from here" in answer.stdout
    deadline = time.monotonic() + 3 * proof_seconds + 5
    for name in ALL:
        while True:
            try:
                socket.create_connection((address(inventory, name), 22), 1).close()
                break
            except TimeoutError:
                assert time.monotonic() < deadline, f"{name} is still closed"
        assert hosts[name].check_output("nft --stateless list ruleset") == before[name]
        assert hosts[name].check_output("cat /etc/nftables.conf") == kept[name]
    ansible.converge()


def test_rules_are_the_same_after_a_restart(hosts: Mapping[str, Host]) -> None:
    for name in ALL:
        rules = hosts[name].check_output("nft --stateless list ruleset")
        assert hosts[name].service("nftables").is_enabled
        hosts[name].check_output("systemctl restart nftables")
        assert hosts[name].check_output("nft --stateless list ruleset") == rules


def test_nothing_is_forwarded_and_nothing_comes_in_by_default(hosts: Mapping[str, Host]) -> None:
    for name in ALL:
        listing = json.loads(hosts[name].check_output("nft --json list chains"))
        policies = {
            entry["chain"]["hook"]: entry["chain"]["policy"] for entry in listing["nftables"] if "chain" in entry
        }
        assert policies == {"input": "drop", "forward": "drop"}
