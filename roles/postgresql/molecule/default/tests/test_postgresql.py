"""What the database promises to the application, on three members."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
from testinfra.host import Host

PATRONICTL = "patronictl -c /etc/patroni/config.yml"
SETTLE_SECONDS = 60
LONGEST_EVENT_SECONDS = 600

# Inserts numbers as the application would, one commit each, and prints each one that the server acknowledged with the
# time of the acknowledgement. It connects anew after an error, and a number whose fate is unknown is not printed.
WRITER = """
import os, sys, time
import psycopg2
number, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
connection = None
while time.monotonic() < end:
    number += 1
    try:
        if connection is None:
            connection = psycopg2.connect(os.environ["CONNINFO"])
            connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO ledger VALUES (%s)", (number,))
        print(number, time.monotonic(), flush=True)
        time.sleep(0.05)
    except psycopg2.Error:
        connection = None
        time.sleep(0.1)
"""


def superuser(host: Host, sql: str, database: str = "postgres") -> str:
    """Answer of the server on this host, as root asks it."""
    command = f"psql -X -At -v ON_ERROR_STOP=1 -U postgres -d {database} -c {shlex.quote(sql)}"
    result = host.run(command)
    assert result.rc == 0, result.stderr + host.run("journalctl -u patroni -n 30 --no-pager").stdout
    return result.stdout.strip()


def conninfo(variables: Mapping[str, Any], **changes: str) -> str:
    """How the application connects, with its password unless `changes` says otherwise."""
    settings = {
        "host": ",".join(variables["postgresql_members"]),
        "dbname": variables["postgresql_database"],
        "user": variables["postgresql_app_role"],
        "password": variables["postgresql_app_password"],
        "target_session_attrs": "read-write",
        "connect_timeout": variables["policy_database_connect_seconds"],
        "sslmode": "verify-full",
        "sslrootcert": "/etc/longhaul/pki/ca.crt",
        **changes,
    }
    return " ".join(f"{key}={value}" for key, value in settings.items() if value != "")


def application(host: Host, sql: str, connection: str) -> Any:
    """Result of psql, connected as the application does."""
    return host.run(f"psql -X -At -v ON_ERROR_STOP=1 -w -c {shlex.quote(sql)} {shlex.quote(connection)}")


def members(host: Host) -> dict[str, dict[str, Any]]:
    """What Patroni says of each member."""
    listed = json.loads(host.run(f"{PATRONICTL} list -f json").stdout)
    return {member["Member"]: member for member in listed}


def settled(host: Host) -> str:
    """Name of the leader, once all members run and follow it."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        seen = members(host)
        leaders = [name for name, member in seen.items() if member["Role"] == "Leader"]
        streaming = [name for name, member in seen.items() if member["State"] == "streaming"]
        if len(leaders) == 1 and len(streaming) == len(seen) - 1:
            return leaders[0]
        assert time.monotonic() < deadline, f"not settled: {seen}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def known(inventory: Any) -> Mapping[str, Any]:
    """Variables that are the same on all members."""
    return inventory.variables("data1")


@pytest.fixture(scope="module", autouse=True)
def ledger(hosts: Mapping[str, Host], known: Mapping[str, Any]) -> None:
    """An empty table of acknowledged numbers."""
    sql = "DROP TABLE IF EXISTS ledger; CREATE TABLE ledger (id bigint PRIMARY KEY)"
    result = application(hosts["data1"], sql, conninfo(known))
    assert result.rc == 0, result.stderr


def write_during(
    hosts: Mapping[str, Host], known: Mapping[str, Any], start: int, seconds: int, event: Callable[[str], None]
) -> float:
    """Write from a replica's host while something happens to the leader, and for some seconds after it.

    Nothing that was acknowledged may be lost. Returns the longest time without an acknowledgement, in seconds.
    """
    leader = settled(hosts["data1"])
    client = next(hosts[name] for name in hosts if name != leader)
    assert client.run(f"cat > /run/writer.py <<'END'\n{WRITER}\nEND").rc == 0
    environment = f"--setenv=CONNINFO={shlex.quote(conninfo(known))}"
    run = f"systemd-run --quiet --collect --unit=writer {environment} -p StandardOutput=truncate:/run/acknowledged"
    assert client.run(f"{run} python3 /run/writer.py {start} {LONGEST_EVENT_SECONDS}").rc == 0
    time.sleep(2)
    event(leader)
    time.sleep(seconds)
    assert client.run("systemctl stop writer").rc == 0, "the event took longer than the writer wrote"
    lines = [line.split() for line in client.file("/run/acknowledged").content_string.splitlines()]
    acknowledged, times = [int(number) for number, _ in lines], [float(moment) for _, moment in lines]
    settled(hosts["data1"])
    rows = application(client, "SELECT id FROM ledger", conninfo(known)).stdout.split()
    assert len(acknowledged) > 50, "the writer hardly wrote"
    assert set(acknowledged) <= set(map(int, rows)), "acknowledged rows are gone"
    return max(later - earlier for earlier, later in pairwise(times))


def test_row_is_on_every_member(hosts: Mapping[str, Host], host: Host, known: Mapping[str, Any]) -> None:
    """A row that was written on the primary can be read on each member."""
    written = application(hosts["data1"], "INSERT INTO ledger VALUES (0) ON CONFLICT DO NOTHING", conninfo(known))
    assert written.rc == 0, written.stderr
    deadline = time.monotonic() + 5
    while superuser(host, "SELECT count(*) FROM ledger WHERE id = 0", known["postgresql_database"]) != "1":
        assert time.monotonic() < deadline, "the row does not arrive"
        time.sleep(0.1)


def test_commit_waits_for_another_member(hosts: Mapping[str, Host], known: Mapping[str, Any]) -> None:
    """The primary waits for a quorum of exactly the other members."""
    leader = settled(hosts["data1"])
    quorum = superuser(hosts[leader], "SHOW synchronous_standby_names")
    match = re.fullmatch(r"ANY 1 \((.*)\)", quorum)
    assert match, quorum
    names = {name.strip().strip('"') for name in match[1].split(",")}
    assert names == set(known["postgresql_members"]) - {leader}
    states = superuser(hosts[leader], "SELECT DISTINCT sync_state FROM pg_stat_replication")
    assert states == "quorum"


def test_database_is_what_was_asked_for(host: Host, known: Mapping[str, Any]) -> None:
    """Checksums on pages, an order of text that no library changes, settings of the role."""
    assert superuser(host, "SHOW data_checksums") == "on"
    sql = "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = current_database()"
    row = superuser(host, sql, known["postgresql_database"])
    assert row == "b|C.UTF-8"
    assert superuser(host, "SHOW max_connections") == str(known["postgresql_max_connections"])
    assert superuser(host, "SHOW max_wal_size") == f"{known['postgresql_max_wal_megabytes']}MB"


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"password": ""}, "no password supplied"),
        ({"password": "wrong"}, "password authentication failed"),
        ({"sslmode": "disable"}, "no pg_hba.conf entry"),
        ({"dbname": "postgres"}, "no pg_hba.conf entry"),
        ({"user": "postgres"}, "no pg_hba.conf entry"),
    ],
)
def test_login_is_refused(host: Host, known: Mapping[str, Any], changes: dict[str, str], refusal: str) -> None:
    """No login without TLS, without the password, as another role or to another database."""
    assert application(host, "SELECT 1", conninfo(known)).rc == 0
    result = application(host, "SELECT 1", conninfo(known, **changes))
    assert result.rc != 0
    assert refusal in result.stderr


def test_patroni_wants_a_certificate(host: Host, known: Mapping[str, Any]) -> None:
    """Patroni's interface has a strictly valid certificate, and answers those only that have one too."""
    script = """
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile="/etc/longhaul/pki/ca.crt")
assert context.verify_flags & ssl.VERIFY_X509_STRICT
if sys.argv[2] == "pair":
    context.load_cert_chain("/etc/longhaul/pki/host.crt", "/etc/longhaul/pki/host.key")
print(urllib.request.urlopen(f"https://{sys.argv[1]}:8008/health", context=context, timeout=5).status)
"""
    for name in known["postgresql_members"]:
        asked = host.run(f"python3 -c {shlex.quote(script)} {name} pair")
        assert asked.stdout.strip() == "200", asked.stderr
        refused = host.run(f"python3 -c {shlex.quote(script)} {name} nothing")
        assert refused.rc != 0
        # The server's alert, or the end of the connection that follows it.
        assert re.search("certificate required|connection reset", refused.stderr, re.IGNORECASE), refused.stderr


def test_change_of_patroni_needs_the_password(host: Host, known: Mapping[str, Any]) -> None:
    """A certificate alone may look and not touch."""
    name = known["postgresql_members"][0]
    script = f"""
import ssl, urllib.error, urllib.request
context = ssl.create_default_context(cafile="/etc/longhaul/pki/ca.crt")
context.load_cert_chain("/etc/longhaul/pki/host.crt", "/etc/longhaul/pki/host.key")
try:
    request = urllib.request.Request("https://{name}:8008/reload", method="POST")
    urllib.request.urlopen(request, context=context, timeout=5)
except urllib.error.HTTPError as error:
    print(error.code)
"""
    assert host.run(f"python3 -c {shlex.quote(script)}").stdout.strip() == "401"


def test_reload_of_the_unit_returns(host: Host) -> None:
    """systemd's reload, which a new certificate causes, ends, and nothing restarts."""
    before = superuser(host, "SELECT pg_postmaster_start_time()")
    assert host.run("timeout 15 systemctl reload patroni").rc == 0
    assert superuser(host, "SELECT pg_postmaster_start_time()") == before


def test_planned_switchover(hosts: Mapping[str, Host], known: Mapping[str, Any]) -> None:
    """A switchover in the middle of writing loses nothing and is short."""

    def switch(leader: str) -> None:
        result = hosts["data1"].run(f"{PATRONICTL} switchover --leader {leader} --force")
        assert result.rc == 0, result.stdout + result.stderr

    before = settled(hosts["data1"])
    outage = write_during(hosts, known, 1_000_000, 6, switch)
    assert settled(hosts["data1"]) != before
    assert outage < known["policy_patroni_ttl_seconds"]


def test_killed_primary_loses_nothing(hosts: Mapping[str, Host], known: Mapping[str, Any]) -> None:
    """kill -9 of the postmaster in the middle of writing: every acknowledged row is there, and writing goes on."""

    def kill(leader: str) -> None:
        pid = hosts[leader].run(f"head -1 {known['postgresql_data_directory']}/postmaster.pid").stdout.strip()
        assert hosts[leader].run(f"kill -9 {pid}").rc == 0

    outage = write_during(hosts, known, 2_000_000, 10, kill)
    assert outage < known["policy_database_failover_seconds"]


def postmaster(host: Host) -> float:
    """When PostgreSQL was started on this host, in seconds; all lab hosts have the machine's clock."""
    return float(superuser(host, "SELECT extract(epoch FROM pg_postmaster_start_time())"))


def history(host: Host) -> list[Any]:
    """One entry for each time that another member became the leader."""
    return list(json.loads(host.run(f"{PATRONICTL} history -f json").stdout))


def said(host: Host, text: str, since: float) -> list[float]:
    """When PostgreSQL logged a text."""
    lines = host.run(f"journalctl -u patroni --since=@{since:.0f} -o short-unix --no-pager --grep={shlex.quote(text)}")
    return [float(line.split()[0]) for line in lines.stdout.splitlines() if line[:1].isdigit()]


def test_restart_only_when_asked(hosts: Mapping[str, Host], known: Mapping[str, Any], ansible: Any) -> None:
    """A parameter that needs a restart waits for it. When that is allowed, the standbys get it one after the other,
    then the leader, by a switchover on purpose. Nothing that was acknowledged is lost, and writing pauses for it alone.
    """
    change = {"postgresql_max_connections": known["postgresql_max_connections"] + 10}
    leader = settled(hosts["data1"])
    standbys = sorted(set(hosts) - {leader})
    started = {name: postmaster(host) for name, host in hosts.items()}
    assert "need a restart" in ansible.converge(**change).stderr
    assert {name: postmaster(host) for name, host in hosts.items()} == started
    terms, began = len(history(hosts["data1"])), time.time()

    def restart(_leader: str) -> None:
        ansible.converge(**change, postgresql_restart_pending=True)

    outage = write_during(hosts, known, 3_000_000, 2, restart)
    assert outage < known["policy_database_failover_seconds"] / 2
    restarted = {name: postmaster(host) for name, host in hosts.items()}
    assert began < restarted[standbys[0]] < restarted[standbys[1]] < restarted[leader]
    for earlier, later in pairwise([*standbys, leader]):
        back = said(hosts[earlier], "started streaming WAL", began)
        gone = said(hosts[later], "received fast shutdown request", began)
        assert back[0] < gone[0], f"{later} went before {earlier} was back"
    assert settled(hosts["data1"]) != leader
    assert len(history(hosts["data1"])) == terms + 1, "more than the one switchover"
    for name in hosts:
        assert superuser(hosts[name], "SHOW max_connections") == str(change["postgresql_max_connections"])
