"""The stacks of an environment's processes: asks all hosts, and puts threads and tasks with equal stacks together.

ops/on_host/python_stacks.py says what a host answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from ops import remote
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.trace.order import WEB, WORKERS

UNITS = {WEB: ("web",), WORKERS: ("worker", "processor")}
"""Group of hosts -> the units whose processes run there."""
SECONDS = 40
"""A host waits for processes that do not answer, then reads them from outside."""

type Answer = dict[str, Any]


def units_of(host: Host, unit: str = "") -> list[str]:
    """The units of a host, of which `unit` alone is wanted if it is given."""
    units = [each for group, names in UNITS.items() if group in host.groups for each in names]
    return [each for each in units if unit in ("", each)]


def hosts_of(environment: Environment, names: str, unit: str) -> list[Host]:
    """The hosts that run a unit, or any; if `names` lists hosts with commas, those. Raises Failure."""
    all_units = [each for units in UNITS.values() for each in units]
    if unit not in ("", *all_units):
        raise Failure(f"There is no unit '{unit}'.", f"Choose one of {', '.join(all_units)}.", Exit.USAGE)
    possible = [host for host in environment.hosts.values() if units_of(host, unit)]
    chosen = [environment.host(name.strip()) for name in names.split(",") if name.strip()]
    if wrong := sorted(host.name for host in chosen if host not in possible):
        raise Failure(
            f"{', '.join(wrong)}: no {unit or 'web, worker or processor'} runs there.",
            f"Choose among: {', '.join(host.name for host in possible)}.",
            Exit.USAGE,
        )
    return chosen or possible


def ask(environment: Environment, hosts: Sequence[Host], unit: str = "") -> tuple[dict[str, Answer], list[Failure]]:
    """Host -> its answer, and why others do not answer."""

    def answer(host: Host) -> Answer | Failure:
        try:
            units = units_of(host, unit)
            found: Answer = remote.ask_program(environment, host, "python_stacks", *units, seconds=SECONDS)
            return found
        except Failure as failure:
            return failure

    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        found = dict(zip([host.name for host in hosts], pool.map(answer, hosts), strict=True))
    answers = {name: said for name, said in found.items() if not isinstance(said, Failure)}
    return answers, [said for said in found.values() if isinstance(said, Failure)]


@dataclass(frozen=True)
class Position:
    """A position in code; `own`: in the application's or a processor's."""

    file: str
    line: int
    function: str
    source: str
    own: bool


class Rank(IntEnum):
    """The order in which stacks are shown: what most likely hangs first."""

    RUNS = 0
    OWN = 1
    WAITING_LOOP = 2
    LIBRARIES = 3
    IDLE = 4


@dataclass
class SharedStack:
    """The stack of threads or of tasks (`kind`), the innermost frame first. `what` they do; `who` are names and ids."""

    rank: Rank
    kind: str
    what: str
    stack: tuple[Position, ...]
    left_out: int
    who: list[str] = field(default_factory=list)


def shared_stacks(process: Mapping[str, Any]) -> list[SharedStack]:
    """The stacks of a process, each once, in the order in which they are shown."""
    frames = [
        Position(*(each[name] for name in ("file", "line", "function", "source", "own"))) for each in process["frames"]
    ]
    found: dict[tuple[Any, ...], SharedStack] = {}

    def put(each: Mapping[str, Any], rank: Rank, kind: str, what: str, who: str) -> None:
        stack = tuple(frames[number] for number in reversed(each["stack"]))
        shared = SharedStack(rank, kind, what, stack, each["left_out"])
        found.setdefault((rank, kind, what, stack), shared).who.append(who)

    shown_by_thread: set[int] = set()
    for thread in process["threads"]:
        stack = [frames[number] for number in reversed(thread["stack"])]
        rank, what = _of_thread(thread, stack)
        who = thread["name"] or str(thread["ident"])
        if thread["task"] is not None:
            shown_by_thread.add(thread["task"])
            who += f" for {called(process['tasks'][thread['task']])}"
        put(thread, rank, "thread", what, who)
    for number, task in enumerate(process["tasks"]):
        if number not in shown_by_thread:
            own = any(frames[each].own for each in task["stack"])
            put(task, Rank.OWN if own else Rank.LIBRARIES, "task", _of_task(task), called(task))
    return sorted(found.values(), key=lambda shared: (shared.rank, -len(shared.who)))


def called(task: Mapping[str, Any]) -> str:
    """A task by its ids, and by its name if a person gave it."""
    ids = " ".join(f"{name}={value}" for name, value in task["ids"].items())
    numbered = task["name"].startswith("Task-")
    return ids if ids and numbered else f"{task['name']} {ids}".strip()


def _of_task(task: Mapping[str, Any]) -> str:
    other = f" {task['waits_for_task']}" if task["waits_for_task"] else ""
    what = {
        "waiting": f"waiting for {task['waits_for']}{other}",
        "running": "running",
        "ready": "waiting for the event loop",
        "new": "not begun",
    }[task["state"]]
    return f"{what}, cancelled" if task["cancelling"] else what


_POOLS = (("/concurrent/futures/thread.py", "_worker"), ("/anyio/_backends/_asyncio.py", "WorkerThread.run"))
_LOOPS = (("/selectors.py", "EpollSelector.select"), ("/asyncio/runners.py", "Runner.run"))
"""Innermost positions of an event loop that waits: asyncio's own, and uvloop, which is not written in Python."""
_WAITING = ("/threading.py", "/queue.py")


def _of_thread(thread: Mapping[str, Any], stack: Sequence[Position]) -> tuple[Rank, str]:
    """`stack`: the innermost frame first."""
    if thread.get("holds"):
        return Rank.RUNS, "holding the interpreter"
    if thread["task"] is not None:
        return Rank.RUNS, "running a task of its event loop"
    if stack and _is_one_of(stack[0], _LOOPS):
        return Rank.WAITING_LOOP, "waiting for events"
    work = next((frame for frame in stack if not frame.file.endswith(_WAITING)), None)
    if work is not None and _is_one_of(work, _POOLS):
        return Rank.IDLE, "idle in a pool"
    return (Rank.OWN if any(frame.own for frame in stack) else Rank.LIBRARIES), ""


def _is_one_of(frame: Position, known: Iterable[tuple[str, str]]) -> bool:
    return any(frame.file.endswith(file) and frame.function == function for file, function in known)
