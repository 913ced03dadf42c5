"""A rehearsal of production is reached from within it only, and reaches nobody: not even when it is not up.

Tests of this folder have labs of their own, and nobody who must answer quickly: they run beside the system tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

import pytest

from ops.lab.lab import Lab
from ops.lab.place import NETNS
from ops.paths import ROOT, tool
from tests.support.commands import run
from tests.support.site import inv

ENVIRONMENT = "prod"
HOSTS = ("web1", "dc2-web1")
REHEARSE = f"--rehearse={ENVIRONMENT}"
OF_PRODUCTION = "192.0.2.21"
# Stands in for the machine's own namespace: whatever is sent anywhere leaves by `out`, to nobody.
MACHINE = """
ip link set lo up
ip link add out type veth peer name nobody
ip link set out addrgenmode none
ip link set nobody addrgenmode none up
ip address add 10.99.0.1/24 dev out
ip link set out up
ip route add default via 10.99.0.2 dev out
ip neighbour add 10.99.0.2 lladdr 02:00:00:00:00:02 dev out nud permanent
code=0
counted=$1
shift
"$@" || code=$?
ip -statistics -json link show dev out >"$counted"
exit $code
"""


@pytest.fixture(scope="module")
def rehearsal() -> Iterator[Lab]:
    """Two hosts of production, one of each data centre."""
    made = Lab.rehearsing(ENVIRONMENT)
    made.destroy()
    done = inv("lab.up", *HOSTS, REHEARSE)
    assert done.returncode == 0, done.stdout
    yield made
    made.destroy()


def elsewhere(*command: str) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run a command where it could send packets to anybody; what it said, and how many it sent."""
    with tempfile.NamedTemporaryFile("r") as counted:
        done = run("unshare", "--net", "sh", "-euc", MACHINE, "sh", counted.name, *command, seconds=120)
        (link,) = json.load(counted)
    return done, int(link["stats64"]["tx"]["packets"])


def task(*words: str) -> Sequence[str]:
    """A task's command line."""
    return [tool("invoke"), "--search-root", str(ROOT), *words]


def within(lab: Lab, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command within the rehearsal."""
    enter = ["nsenter", f"--net={NETNS / lab.place.netns}", "--"]
    return subprocess.run([*enter, *command], capture_output=True, text=True, check=False, timeout=60)


def test_hosts_have_the_addresses_of_the_real_ones(rehearsal: Lab) -> None:
    assert rehearsal.states()["web1"] == "running"
    for host, address in (("web1", OF_PRODUCTION), ("dc2-web1", "198.51.100.21")):
        shown = rehearsal.exec(host, ["ip", "-4", "-oneline", "address", "show", "dev", "eth0"])
        assert f" {address}/24 " in shown.stdout


@pytest.mark.usefixtures("rehearsal")
def test_operators_come_from_their_network_and_reach_both_data_centres() -> None:
    for host in HOSTS:
        done = inv("lab.ssh", host, REHEARSE, "--", "hostname; echo $SSH_CONNECTION")
        assert done.returncode == 0, done.stdout
        assert host in done.stdout
        assert "203.0.113." in done.stdout


def test_data_centres_reach_each_other(rehearsal: Lab) -> None:
    pinged = rehearsal.exec("web1", ["ping", "-c1", "-W2", "198.51.100.21"])
    assert pinged.returncode == 0, pinged.stdout


def test_hosts_get_packages_though_nothing_joins_them_to_the_machine(rehearsal: Lab) -> None:
    assert (
        rehearsal.place.cable not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    )
    fetched = rehearsal.exec("dc2-web1", ["apt-get", "update", "--error-on=any"])
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr


def test_nobody_else_can_be_reached_from_within(rehearsal: Lab) -> None:
    """Neither from where tasks run, nor from the hosts; they are told at once, and do not wait for an answer."""
    for address in ("10.99.0.9", "8.8.8.8", "198.18.0.1"):
        asked = within(rehearsal, sys.executable, "-c", f"__import__('socket').create_connection(('{address}', 22), 5)")
        assert asked.returncode != 0
        assert "unreachable" in asked.stderr or "No route to host" in asked.stderr, asked.stderr
        assert rehearsal.exec("web1", ["ping", "-c1", "-W1", address]).returncode != 0


def test_a_task_of_a_rehearsal_sends_nothing_from_the_machine(rehearsal: Lab) -> None:
    """Up it reaches the hosts, down it ends with a message: not one packet leaves in either case."""
    up, sent = elsewhere(*task("status", "--json", REHEARSE))
    assert "not reachable" in up.stdout, up.stdout  # the hosts that are not up
    (web1,) = (
        host
        for host in json.loads(up.stdout[up.stdout.index("[\n") : up.stdout.rindex("\n]") + 2])
        if host["name"] == "web1"
    )
    assert web1["said"]["units"] == {"longhaul-web.service": "not-found"}
    assert sent == 0
    rehearsal.down()
    for words in (["status"], ["deploy", "--yes"], ["provision", "--yes"], ["access"], ["lock.show"], ["deploys"]):
        down, sent = elsewhere(*task(*words, REHEARSE))
        assert down.returncode == 75, down.stdout
        assert f"./inv lab.up {REHEARSE}" in down.stdout
        assert sent == 0
    # And what is sent would be seen.
    ssh = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=1", OF_PRODUCTION, "true"]
    refused, sent = elsewhere(*ssh)
    assert refused.returncode != 0
    assert sent > 0
    rehearsal.up(HOSTS)


def test_secrets_of_a_rehearsal_need_no_password(rehearsal: Lab) -> None:
    done = inv("access", REHEARSE, "--json")
    assert done.returncode == 0, done.stdout
    said = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert said["url"] == "https://uploads.example.org"
    vault = rehearsal.place.inventory / "group_vars/all/vault.yml"
    assert said["token"] in vault.read_text()
