"""Rehearsals: any inventory as a lab, with its own names and addresses, and tasks that run within it.

Nothing joins the lab of a rehearsal to the machine, so a task reaches its hosts only from within the lab's network
namespace, and from there reaches nobody else. Whether this process is within one is what the kernel says of it: there
is no switch that could be set and the rest forgotten.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

from ops.errors import Exit, Failure
from ops.lab import inventory, machine
from ops.lab.lab import Lab
from ops.lab.place import LABS, NETNS, Place

OPTION = "--rehearse"
# Names are those of the rehearsed site, and nobody else is asked for one.
_ENTER = """
mount --bind "$1" /etc/hosts
[ ! -e /etc/resolv.conf ] || mount --bind /dev/null "$(readlink -f /etc/resolv.conf)"
shift
exec "$@"
"""


@dataclass(frozen=True)
class Rehearsal:
    """One that this process is within: of an environment, in a lab."""

    environment: str
    place: Place


@cache
def current() -> Rehearsal | None:
    """The rehearsal that this process is within, if it is within one."""
    own = Path("/proc/self/ns/net").stat()
    for path in sorted(LABS.glob("*")):
        place = Place(path.name)
        namespace = NETNS / place.netns
        if namespace.exists() and os.path.samestat(namespace.stat(), own):
            environment = inventory.recorded_environment(place)
            assert environment is not None, "a lab whose network is up has an inventory"
            return Rehearsal(environment, place)
    return None


def enter(environment: str, words: Sequence[str]) -> NoReturn:
    """Run `./inv` with these words within the rehearsal of an environment, and end as it ends.

    Raises Failure if its lab is not up: then nothing is sent to anybody.
    """
    place = require_up(environment)
    hosts = place.directory / "hosts-within"
    hosts.write_text(_names(place))
    inv = [sys.executable, "-m", "invoke", *words]
    enter_lab = ["nsenter", f"--net={NETNS / place.netns}", "--", "unshare", "--mount", "--"]
    command = [*enter_lab, "/bin/sh", "-euc", _ENTER, "sh", str(hosts), *inv]
    sys.exit(subprocess.run(command, check=False).returncode)


def require_up(environment: str) -> Place:
    """The place of a rehearsal that is up. Raises Failure if it is not, or this is not root."""
    machine.require_root()
    lab = Lab.rehearsing(environment)
    off = sorted(name for name, state in lab.states().items() if state == "stopped")
    if not lab.exists() or not (NETNS / lab.place.netns).exists() or off:
        raise Failure(
            f"The rehearsal of '{environment}' is not up" + (f": {', '.join(off)} off." if off else "."),
            f"Start it: ./inv lab.up {OPTION}={environment}",
            Exit.TEMPORARY,
        )
    return lab.place


def words_within(line: Sequence[str], environment: str) -> list[str]:
    """The words of a command line for the process within: with --env instead of --rehearse.

    Raises Failure if the option is not written in full.
    """
    words = list(line)
    for number, word in enumerate(words):
        if word == OPTION:
            del words[number : number + 2]
            break
        if word.startswith(f"{OPTION}="):
            del words[number]
            break
    else:
        raise Failure("The option cannot be found.", f"Write it in full: {OPTION}={environment}", Exit.USAGE)
    return [*words, f"--env={environment}"]


def _names(place: Place) -> str:
    found = ["127.0.0.1 localhost"]
    known = inventory.environment_of(place, inventory.recorded_environment(place) or "")
    named: set[str] = set()
    for host in known.hosts.values():
        found.append(f"{host.address} {host.name}")
        public = str(host.variables["public_name"])
        if public not in named and not public[0].isdigit():  # that of the first data centre, as users are sent there
            found.append(f"{host.variables['public_address']} {public}")
            named.add(public)
    return "\n".join(found) + "\n"
