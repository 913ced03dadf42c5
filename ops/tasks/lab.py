"""The tasks `lab.*`: the local data centre."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import asdict
from json import dumps

from rich.console import Console
from rich.table import Table

from ops.console import confirm, console
from ops.errors import Exit, Failure
from ops.lab import machine
from ops.lab.lab import Lab
from ops.lab.place import NETNS
from ops.tasks.declare import lab_task, task
from ops.tasks.words import HOSTS, TaskWithHosts, words_after_dashes

HOST = {"host": "name of a host, as in the inventory"}


@task(
    klass=TaskWithHosts,
    help={
        HOSTS: "names of hosts; without any: all of the inventory",
        "volatile": "fast disks that a power cut may corrupt: for tests of roles only",
        "rehearse": "environment whose hosts to boot, with their own names and addresses",
    },
)
def up(_context: object, hosts: list[str] = [], volatile: bool = False, rehearse: str = "") -> None:  # noqa: B006
    """Boot hosts, and wait until SSH answers."""
    lab = Lab.rehearsing(rehearse) if rehearse else Lab.named()
    ready = lab.up(hosts, volatile=volatile)
    console.print(f"lab {lab.name}: {len(ready)} hosts are up; inventory: {lab.place.inventory}")


@lab_task(klass=TaskWithHosts, help={HOSTS: "names of hosts; without any: the whole lab"})
def down(_context: object, hosts: list[str] = []) -> None:  # noqa: B006
    """Shut hosts down; their disks stay."""
    lab = Lab.named()
    lab.down(hosts)
    console.print(f"lab {lab.name}: {', '.join(hosts) or 'all hosts'} down")


@lab_task()
def destroy(_context: object, yes: bool = False) -> None:
    """Remove the lab, and what a crash left of it."""
    lab = Lab.named()
    machine.require_root()
    if lab.place.directory.exists():
        confirm(f"Remove the lab '{lab.name}' with its disks and snapshots?", yes=yes)
    console.print(f"lab {lab.name}: {'removed' if lab.destroy() else 'there is none'}")


@lab_task()
def status(_context: object, json: bool = False) -> None:
    """Show the hosts and their state."""
    machine.require_root()
    lab = Lab.named()
    found = lab.status()
    if json:
        sys.stdout.write(dumps([asdict(host) for host in found], indent=2) + "\n")
        return
    if not found:
        console.print(f"There is no lab '{lab.name}'. Start it: ./inv lab.up")
        return
    cache = "running" if lab.cache_is_running() else "stopped"
    table = Table("host", "address", "state", "up for", title=f"lab {lab.name}", caption=f"package cache: {cache}")
    for host in found:
        table.add_row(host.name, host.address, host.state, "" if host.uptime is None else f"{host.uptime:.0f} s")
    Console().print(table)


@lab_task(name="exec", positional=["host"], help=HOST)
def execute(_context: object, host: str) -> None:
    """Run a command as root in a host: lab.exec HOST -- CMD."""
    machine.require_root()
    command = words_after_dashes(sys.argv)
    if not command:
        raise Failure("No command is given.", f"Write: ./inv lab.exec {host} -- CMD", Exit.USAGE)
    sys.exit(subprocess.run(Lab.named().host(host).command(command), check=False).returncode)


@lab_task(positional=["host"], help=HOST)
def ssh(_context: object, host: str) -> None:
    """Open a shell in a host by SSH: lab.ssh HOST [-- CMD]."""
    lab = Lab.named()
    target = lab.host(host)
    options = [*lab.environment.ssh_options(), "-i", str(lab.place.key), "-o", "IdentitiesOnly=yes"]
    within = ["nsenter", f"--net={NETNS / lab.place.netns}", "--"] if lab.sealed else []
    command = [*within, "ssh", "-F", "none", *options, f"ops@{target.address}", *words_after_dashes(sys.argv)]
    sys.exit(subprocess.run(command, check=False).returncode)


@lab_task(positional=["host"], help=HOST)
def power_cut(_context: object, host: str) -> None:
    """Cut a host's power."""
    machine.require_root()
    Lab.named().power_cut(host)
    console.print(f"{host} has no power; what was not on its disk is lost")


@lab_task(positional=["host"], help=HOST)
def freeze(_context: object, host: str) -> None:
    """Stop all processes of a host; connections stay."""
    machine.require_root()
    Lab.named().freeze(host)
    console.print(f"{host} is frozen")


@lab_task(positional=["host"], help=HOST)
def thaw(_context: object, host: str) -> None:
    """Let a frozen host continue."""
    machine.require_root()
    Lab.named().thaw(host)
    console.print(f"{host} runs again")


@lab_task(positional=["host"], help=HOST)
def unplug(_context: object, host: str) -> None:
    """Pull a host's network cable out."""
    machine.require_root()
    Lab.named().unplug(host)
    console.print(f"{host} is unplugged")


@lab_task(positional=["host"], help=HOST)
def plug(_context: object, host: str) -> None:
    """Put a host's network cable in."""
    machine.require_root()
    Lab.named().plug(host)
    console.print(f"{host} is plugged in")


@lab_task(positional=["host", "other"], help={**HOST, "other": "name of another"})
def partition(_context: object, host: str, other: str) -> None:
    """Keep two hosts from reaching each other."""
    machine.require_root()
    Lab.named().partition(host, other)
    console.print(f"{host} and {other} no longer reach each other")


@lab_task(positional=["host", "rate"], help={**HOST, "rate": "each way: 5KB (bytes) or 10mbit (bits) a second"})
def shape(_context: object, host: str, rate: str) -> None:
    """Slow a host's line down."""
    machine.require_root()
    Lab.named().shape(host, rate)
    console.print(f"{host} has a line of {rate}")


@lab_task(positional=["host"], help=HOST)
def fill_disk(_context: object, host: str) -> None:
    """Fill a host's disk to the last byte."""
    machine.require_root()
    taken = Lab.named().fill_disk(host)
    console.print(f"the disk of {host} is full ({taken / 1e9:.1f} GB were free)")


@lab_task()
def heal(_context: object) -> None:
    """End all faults but power cuts."""
    machine.require_root()
    lab = Lab.named()
    lab.heal()
    console.print(f"lab {lab.name}: all cables, lines, disks and processes are as they should be")


@lab_task(
    positional=["name"],
    help={
        "name": "name of the client",
        "rate": "line speed each way: 5KB (bytes) or 10mbit (bits) a second",
        "remove": "remove it",
    },
)
def client(_context: object, name: str, rate: str = "", remove: bool = False) -> None:
    """Make a client with a line of its own, fast or slow."""
    machine.require_root()
    lab = Lab.named()
    if remove:
        lab.remove_client(name)
        console.print(f"{name} is gone")
        return
    made = lab.client(name, rate or None)
    command = words_after_dashes(sys.argv)
    if command:
        sys.exit(made.run(command).returncode)
    console.print(f"{name} has the address {made.address}; run something there: {shlex.join(made.command(['CMD']))}")


@lab_task(positional=["name"], help={"name": "name of the snapshot"})
def snapshot(_context: object, name: str) -> None:
    """Take a snapshot of all disks."""
    lab = Lab.named()
    lab.snapshot(name)
    console.print(f"lab {lab.name}: snapshot {name} taken")


@lab_task(positional=["name"], help={"name": "name of the snapshot"})
def restore(_context: object, name: str) -> None:
    """Restore all disks from a snapshot, and boot."""
    lab = Lab.named()
    lab.restore(name)
    console.print(f"lab {lab.name}: as it was in snapshot {name}")


@lab_task(positional=["name"], help={"name": "name of the snapshot"})
def drop_snapshot(_context: object, name: str) -> None:
    """Remove a snapshot."""
    machine.require_root()
    Lab.named().drop_snapshot(name)
