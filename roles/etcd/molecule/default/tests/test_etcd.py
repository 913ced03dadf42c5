"""What the cluster promises to Patroni and to the operators' locks, on three members."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from testinfra.host import Host

from ops import authority_rotation as authority
from ops import on_host, secrets
from ops.environment import Environment
from tests.support.waiting import until

ANSWER_SECONDS = 20
# While members restart one after the other: a client that had asked the one that went asks another. Without a majority
# it would be as long as a restart takes, and more.
LONGEST_PAUSE_SECONDS = 5


def etcdctl(host: Host, arguments: str) -> str:
    """Output of etcdctl as operators run it; the member's journal if it fails."""
    result = host.run(f"longhaul-etcdctl {arguments}")
    assert result.rc == 0, result.stderr + host.run("journalctl -u etcd -n 30 --no-pager").stdout
    return result.stdout.strip()


def through(name: str) -> str:
    """The option that asks one member only."""
    return f"--endpoints=https://{name}:2379"


def member_ids(host: Host) -> dict[str, int]:
    """Id of each member by name."""
    return {member["name"]: member["ID"] for member in json.loads(etcdctl(host, "-w json member list"))["members"]}


def restart_of(host: Host) -> tuple[int, int]:
    """When the member went away last and when it was back, in microseconds; all lab hosts have the machine's clock."""
    shown = host.run("systemctl show etcd -p ActiveExitTimestampMonotonic -p ActiveEnterTimestampMonotonic").stdout
    values = dict(line.split("=") for line in shown.split())
    return int(values["ActiveExitTimestampMonotonic"]), int(values["ActiveEnterTimestampMonotonic"])


@contextmanager
def written_all_the_time(client: Host) -> Iterator[list[float]]:
    """Write one key after the other; the list holds afterwards when each was acknowledged, in seconds."""
    # A leader that goes may forget what was just proposed to it; the client then waits as long as it is told, else 5 s.
    write = "longhaul-etcdctl --command-timeout=1s put /test/busy x >/dev/null && date +%s.%N"
    loop = f"while :; do {write}; sleep 0.1; done"  # without a rest it would take the machine from those it watches
    # The client warns of an attempt that it repeats; left alone, that goes where the output goes.
    output = "-p StandardOutput=truncate:/run/acknowledged -p StandardError=journal"
    assert client.run(f"systemd-run --quiet --collect --unit=writer {output} sh -c '{loop}'").rc == 0
    moments: list[float] = []
    try:
        yield moments
    finally:
        client.run("systemctl stop writer")
        moments += map(float, client.file("/run/acknowledged").content_string.split())


@contextmanager
def stopped(*members: Host) -> Iterator[None]:
    """Without these members; they are back afterwards."""
    for member in members:
        assert member.run("systemctl stop etcd").rc == 0
    try:
        yield
    finally:
        for member in members:
            # A start is over when there is a majority again, so one must not wait for the next.
            member.run("systemctl start --no-block etcd")
        for member in members:
            until(lambda member=member: member.run("systemctl is-active etcd").rc == 0, seconds=ANSWER_SECONDS)


def test_member_reads_what_another_wrote(hosts: Mapping[str, Host], host: Host, variables: Mapping[str, Any]) -> None:
    """A key written through the first member is read through each."""
    writer, reader = variables["etcd_members"][0], variables["inventory_hostname"]
    etcdctl(hosts[writer], f"{through(writer)} put /test/key for-{reader}")
    assert etcdctl(host, f"{through(reader)} get --print-value-only /test/key") == f"for-{reader}"


def test_all_members_are_known(host: Host, variables: Mapping[str, Any]) -> None:
    """The cluster consists of the members of the inventory."""
    assert sorted(member_ids(host)) == sorted(variables["etcd_members"])


def test_client_needs_a_certificate(hosts: Mapping[str, Host]) -> None:
    """The server's certificate is good, but nobody gets in without one of his own, or without TLS."""
    client = hosts["data1"]
    ca = "--cacert=/etc/longhaul/pki/ca.crt"
    pair = "--cert=/etc/longhaul/pki/host.crt --key=/etc/longhaul/pki/host.key"
    assert client.run(f"etcdctl {through('data2')} {ca} {pair} get /test/key").rc == 0
    assert client.run(f"etcdctl {through('data2')} {ca} --command-timeout=3s get /test/key").rc != 0
    assert client.run("etcdctl --endpoints=http://data2:2379 --command-timeout=3s get /test/key").rc != 0


def test_member_uses_the_policy(host: Host, variables: Mapping[str, Any]) -> None:
    """The running process has the times of the policy."""
    pid = host.run("systemctl show -P MainPID etcd").stdout.strip()
    environment = host.run(f"tr '\\0' '\\n' < /proc/{pid}/environ").stdout.splitlines()
    assert f"ETCD_HEARTBEAT_INTERVAL={variables['policy_etcd_heartbeat_milliseconds']}" in environment
    assert f"ETCD_ELECTION_TIMEOUT={variables['policy_etcd_election_milliseconds']}" in environment


def test_two_of_three_serve(hosts: Mapping[str, Host]) -> None:
    """Without one member the others write and read, and it catches up when it is back."""
    with stopped(hosts["data3"]):
        etcdctl(hosts["data1"], "put /test/majority kept")
        assert etcdctl(hosts["data2"], "get --print-value-only /test/majority") == "kept"
    assert etcdctl(hosts["data3"], f"{through('data3')} get --print-value-only /test/majority") == "kept"


def test_one_of_three_does_not_serve(hosts: Mapping[str, Host]) -> None:
    """A minority neither acknowledges a write nor answers a read; what becomes of the write later is open."""
    with stopped(hosts["data2"], hosts["data3"]):
        for command in ("put /test/minority unknown", "get /test/majority"):
            result = hosts["data1"].run(f"longhaul-etcdctl {through('data1')} --command-timeout=3s {command}")
            assert result.rc != 0, f"{command} succeeded without a majority"


def test_killed_member_comes_back(hosts: Mapping[str, Host]) -> None:
    """A member that dies is started again, with its data and its id."""
    before = member_ids(hosts["data1"])
    pid = hosts["data2"].run("systemctl show -P MainPID etcd").stdout.strip()
    assert hosts["data2"].run(f"kill -9 {pid}").rc == 0
    until(
        lambda: hosts["data2"].run(f"longhaul-etcdctl {through('data2')} get /test/majority").rc == 0,
        seconds=ANSWER_SECONDS,
    )
    assert member_ids(hosts["data1"]) == before


def test_members_restart_one_at_a_time(hosts: Mapping[str, Host], inventory: Any, ansible: Any) -> None:
    """A changed configuration restarts all members, none while another one is away, and writing goes on all the time.

    A restart that was refused is made up for by the next run, though it finds the file as it should be.
    """
    before = {name: restart_of(host) for name, host in hosts.items()}
    change = {"etcd_compaction_hours": inventory.variables("data1")["etcd_compaction_hours"] + 1}
    with stopped(hosts["data3"]):
        refused = ansible.converge(check=False, limit="data1", **change)
    assert refused.returncode != 0
    assert "https://data3:2379/health" in refused.stdout
    assert "run this again" in refused.stdout
    assert restart_of(hosts["data1"]) == before["data1"], "a member was restarted while another one was away"
    before["data3"] = restart_of(hosts["data3"])
    with written_all_the_time(hosts["data2"]) as moments:
        ansible.converge(**change)
    assert max(later - earlier for earlier, later in pairwise(moments)) < LONGEST_PAUSE_SECONDS
    absences = sorted(restart_of(host) for host in hosts.values())
    assert not set(absences) & set(before.values()), "a member was not restarted"
    for (_, back), (gone, _) in pairwise(absences):
        assert back < gone, f"two members were away at once: {absences}"


def test_member_that_lost_its_data_is_replaced(hosts: Mapping[str, Host], inventory: Any, ansible: Any) -> None:
    """An empty member gets a new id, because the old one has promised things, and then all data."""
    before = member_ids(hosts["data1"])
    hosts["data3"].run("systemctl stop etcd")
    directory = inventory.variables("data3")["etcd_data_directory"]
    assert hosts["data3"].run(f"rm -r {directory}").rc == 0
    ansible.converge()
    after = member_ids(hosts["data1"])
    assert sorted(after) == sorted(before)
    assert after["data3"] != before["data3"]
    assert {name: after[name] for name in ("data1", "data2")} == {name: before[name] for name in ("data1", "data2")}
    assert etcdctl(hosts["data3"], f"{through('data3')} get --print-value-only /test/majority") == "kept"


def test_member_restarts_into_the_same_cluster(hosts: Mapping[str, Host]) -> None:
    """An orderly restart keeps the member's id; the file of the first start is not read again."""
    before = member_ids(hosts["data1"])
    assert hosts["data3"].run("systemctl restart etcd").rc == 0
    assert member_ids(hosts["data1"]) == before


def test_a_new_authority_takes_over_while_the_cluster_serves(
    hosts: Mapping[str, Host], inventory: Any, ansible: Any
) -> None:
    """The steps of `secrets.rotate-ca`; last, because they leave another authority than the inventory's.

    A member that had not read again whom it trusts would refuse the certificates that the second step brings, or still
    let in those of the earlier authority after the third.
    """
    values = {name: inventory.variables("data1")[name] for name in secrets.AUTHORITY}
    for host in hosts.values():
        host.check_output("cp /etc/longhaul/pki/host.crt /run/earlier.crt")
    restarts, lets_in = [], []
    with written_all_the_time(hosts["data2"]) as moments:
        for _ in range(3):
            step = authority.next_step(Environment.of_checkout("lab"), values)
            assert not lacking(hosts, step)
            before = {name: restart_of(host) for name, host in hosts.items()}
            values.update(step.new)
            ansible.converge(**values)
            restarts.append({name for name, host in hosts.items() if restart_of(host) != before[name]})
            lets_in.append({name for name in hosts if lets_in_earlier(hosts["data1"], name)})
    assert not values["vault_pki_old_ca_certificates"]
    assert max(later - earlier for earlier, later in pairwise(moments)) < LONGEST_PAUSE_SECONDS
    assert restarts == [set(hosts), set(), set(hosts)]
    assert lets_in == [set(hosts), set(hosts), set()]


def lacking(hosts: Mapping[str, Host], step: authority.RotationStep) -> list[str]:
    """What the hosts lack of what a step asks for."""
    problems = []
    for host in hosts.values():
        said = json.loads(host.check_output("python3 -c %s", on_host.path_of("certificates_read").read_text()))
        problems += authority.missing(said, step.trusted, step.signed_by) if step.trusted else []
    return problems


def lets_in_earlier(client: Host, name: str) -> bool:
    """Whether a member accepts the certificate that the client had of the earlier authority."""
    options = "--cacert=/etc/longhaul/pki/ca.crt --cert=/run/earlier.crt --key=/etc/longhaul/pki/host.key"
    return bool(client.run(f"etcdctl {through(name)} {options} --command-timeout=3s get /test/key").rc == 0)
