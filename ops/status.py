"""What runs where: hosts, services and versions, and what balancers, database and storage say of each other."""

from __future__ import annotations

from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table

from ops import remote
from ops.environment import Environment, Host
from ops.errors import Exit

UNITS = {
    "loadbalancers": ["haproxy.service", "keepalived.service"],
    "web": ["longhaul-web.service"],
    "workers": ["longhaul-worker.service", "longhaul-processor.socket"],
    "database": ["etcd.service", "patroni.service"],
    "packages": ["nginx.service"],
    "storage": ["swift-proxy.service", "swift-account.service", "swift-container.service", "swift-object.service"],
}
SHORT_FUNCTIONS = {
    "loadbalancers": "lb",
    "workers": "work",
    "database": "db",
    "storage": "store",
    "packages": "pkg",
    "monitoring": "mon",
    "backup": "bak",
}
"""For narrow terminals."""
SHORT_LETTERS = ((7, 4), (12, 12))
"""Of a commit, and of what follows it in a version: enough to tell apart those of one environment."""
NOTES_WIDTH = 24
WIDE = 1000
"""More columns than any table has."""


@dataclass
class HostStatus:
    """What a host said of itself, and what is wrong in its eyes, in words; `said` is empty if it did not answer.

    `suspects` are the hosts that the problems lie with: itself, or others that it sees.
    """

    name: str
    address: str
    groups: list[str]
    said: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    suspects: list[str] = field(default_factory=list)

    def blame(self, problem: str, *hosts: str) -> None:
        """Note a problem, which lies with `hosts` (default: this one)."""
        self.problems.append(problem)
        self.suspects += [name for name in hosts or (self.name,) if name not in self.suspects]


def status(environment: Environment) -> list[HostStatus]:
    """Ask all hosts at once, each with one command by SSH."""
    hosts = list(environment.hosts.values())
    with ThreadPoolExecutor(max_workers=len(hosts) or 1) as pool:
        found = list(pool.map(lambda host: _ask(environment, host), hosts))
    _judge_address(environment, found)
    return found


def _units(host: Host) -> list[str]:
    return [unit for group, units in UNITS.items() if group in host.groups for unit in units]


def _ask(environment: Environment, host: Host) -> HostStatus:
    functions = sorted(group for group in host.groups if group in UNITS or group in {"monitoring", "backup"})
    result = HostStatus(host.name, host.address, functions)
    ports = (str(host.variables[name]) for name in ("site_patroni_port", "site_storage_port"))
    arguments = (host.name, ",".join(functions), ",".join(_units(host)), *ports)
    try:
        result.said = remote.ask_program(environment, host, "host_status", *arguments)
    except remote.NoAnswer as silent:
        why = "not reachable" if silent.code == Exit.UNAVAILABLE else "did not answer"
        result.blame(f"{why}: {silent.reason[-200:]}")
    else:
        judge(result)
    return result


def judge(host: HostStatus) -> None:
    """Note what is wrong with what a host said."""
    said = host.said
    for unit, state in said["units"].items():
        if state != "active":
            host.blame(f"{unit} is {state}")
    if said["drained"]:
        host.blame(f"drained: {said['drained']} (/var/lib/longhaul/drain exists)")
    balanced = said.get("balanced", {})
    if isinstance(balanced, str):
        host.blame(f"HAProxy: {balanced}")
    else:
        for server, state in balanced.items():
            if state != "UP":
                host.blame(f"HAProxy sees {server} as {state}", server)
    _judge_members(host, said.get("members", {}))
    if said.get("storage", "OK") != "OK":
        host.blame(f"Swift: {said['storage']}")


def _judge_members(host: HostStatus, members: dict[str, str] | str) -> None:
    if isinstance(members, str):
        host.blame(f"Patroni: {members}")
        return
    for member, state in members.items():
        if not member_is_well(state):
            host.blame(f"Patroni sees {member} as {state}", member)
    if members and not any(state.startswith("leader") for state in members.values()):
        host.blame("Patroni: there is no leader", *members)


def member_is_well(state: str) -> bool:
    """Whether a database member with this role and state does its part."""
    return state.rsplit(maxsplit=1)[-1] in {"running", "streaming"}


def _judge_address(environment: Environment, found: list[HostStatus]) -> None:
    """The public address must be on one load balancer of each data centre, no more."""
    for balancer in environment.group("loadbalancers"):
        address = balancer.variables.get("public_address")
        holders = [host.name for host in found if address in host.said.get("addresses", [])]
        peers = [
            peer.name for peer in environment.group("loadbalancers") if peer.variables.get("public_address") == address
        ]
        mine = next(host for host in found if host.name == balancer.name)
        if mine.said and balancer.name == peers[0] and len(holders) != 1:
            mine.blame(f"{address} is on {', '.join(holders) or 'no load balancer'}", *peers)


def show_table(console: Console, environment: Environment, found: list[HostStatus]) -> None:
    """Print the table of all hosts, and below it what its abbreviations stand for.

    Releases are always abbreviated, functions where the console is too narrow for them.
    """
    versions = short_versions({host.said.get(key, "") for host in found for key in ("release", "processors")} - {""})
    functions: Mapping[str, str] = {}
    if _width(_table(environment, found, versions, functions), console) > console.width:
        functions = SHORT_FUNCTIONS
    console.print(_table(environment, found, versions, functions))
    console.print()
    for version, short in versions.items():
        console.print(f"{short} = {version}", markup=False, highlight=False, soft_wrap=True)
    used = sorted({function for host in found for function in host.groups} & functions.keys())
    if used:
        meant = ", ".join(f"{functions[function]} = {function}" for function in used)
        console.print(meant, markup=False, highlight=False)


def _width(table: Table, console: Console) -> int:
    """What a table takes with notes that are folded, but can be read."""
    table.columns[-1].max_width = NOTES_WIDTH
    return Measurement.get(console, console.options.update(width=WIDE), table).maximum


def short_versions(versions: Set[str]) -> dict[str, str]:
    """Version -> as many letters of its commit, and of what follows that, as tell it from the others."""
    for letters in SHORT_LETTERS:
        shorts = {version: _short(version, *letters) for version in sorted(versions)}
        if len(set(shorts.values())) == len(shorts):
            return shorts
    return {version: version for version in versions}


def _short(version: str, letters: int, more: int) -> str:
    """With 7 and 4: 20261128T101500-0a1b2c3d4e5f-dirty-6a7b8c9d0e1f -> 0a1b2c3-0e1f"""
    time, _, rest = version.partition("-")
    commit, *others = rest.split("-")
    return "-".join([commit[:letters] or time, *(other[-more:] for other in others[-1:])])


def _table(
    environment: Environment, found: list[HostStatus], versions: Mapping[str, str], functions: Mapping[str, str]
) -> Table:
    columns = [Column(name, no_wrap=True) for name in ("host", "address", "functions", "release", "up")]
    # A word that is too long for its column is folded: half a name is none.
    table = Table(
        *columns,
        Column("notes", overflow="fold"),
        title=f"environment {environment.name}",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    addresses = {str(host.variables.get("public_address")) for host in environment.hosts.values()}
    for host in found:
        units = host.said.get("units", {})
        active = sum(state == "active" for state in units.values())
        notes = [f"holds {address}" for address in sorted(addresses & set(host.said.get("addresses", [])))]
        members = host.said.get("members", {})
        if processors := host.said.get("processors"):
            notes.append(f"processors {versions[processors]}")
        if isinstance(members, dict) and members.get(host.name, "").startswith("leader"):
            notes.append("database primary")
        release = host.said.get("release", "")
        table.add_row(
            host.name,
            host.address,
            " ".join(functions.get(function, function) for function in host.groups),
            versions.get(release, release),
            f"{active}/{len(units)}" if host.said else "?",
            "\n".join([*notes, *(f"[red]{escape(problem)}[/]" for problem in host.problems)]),
        )
    return table
