"""Rehearsals: any inventory as a lab, with its own names and addresses, and tasks that run within it.

The lab of a rehearsal has no connection to the machine. A task reaches its hosts only from within the lab's network
namespace, and from there it reaches nothing else. The kernel tells whether this process is in such a namespace:
there is no variable that could be set by mistake.
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
# Host names are resolved by a file with the names of the rehearsed site, and no name server is asked.
_ENTER = """
mount --bind "$1" /etc/hosts
[ ! -e /etc/resolv.conf ] || mount --bind /dev/null "$(readlink -f /etc/resolv.conf)"
shift
exec "$@"
"""


@dataclass(frozen=True)
class Rehearsal:
    """The rehearsal that this process runs in: the name of its environment, and the place of its lab."""

    environment: str
    place: Place


@cache
def current() -> Rehearsal | None:
    """The rehearsal that this process runs in, or None."""
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
    """Replace this process by `./inv` with these words within the rehearsal of an environment.

    Raises Failure if the lab of the rehearsal is not up.
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
        raise Failure(f"The option {OPTION} is abbreviated.", f"Write it in full: {OPTION}={environment}", Exit.USAGE)
    return [*words, f"--env={environment}"]


def _names(place: Place) -> str:
    found = ["127.0.0.1 localhost"]
    known = inventory.environment_of(place, inventory.recorded_environment(place) or "")
    named: set[str] = set()
    for host in known.hosts.values():
        found.append(f"{host.address} {host.name}")
        public = str(host.variables["public_name"])
        if public not in named and not public[0].isdigit():  # the first data centre's address: users are sent there
            found.append(f"{host.variables['public_address']} {public}")
            named.add(public)
    return "\n".join(found) + "\n"
