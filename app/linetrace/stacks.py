"""The stacks of this process: where its threads are, and what the tasks of its asyncio event loops wait for.

The listener's thread takes them, and nothing is armed. They hold positions in code and ids, not values. No code of the
program is called: everything is read with the functions of the interpreter's own types, whatever subclasses define.
What the program goes on doing meanwhile makes single stacks inconsistent; those of what hangs are not.
"""

from __future__ import annotations

import _thread
import gc
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from types import CodeType, FrameType, GetSetDescriptorType, MappingProxyType, MemberDescriptorType
from typing import Any, NamedTuple

from linetrace.context import Scope, current
from linetrace.own import OwnFiles
from linetrace.peer import Program
from linetrace.sources import Sources
from linetrace.values import type_name

MOST_TASKS = 1_000
MOST_FRAMES = 200
"""Of one stack: the innermost ones."""
LONGEST_SOURCE = 200
"""Characters of a line of source."""
_DEEPEST = 100_000
"""Steps in one stack, more than a limit of recursion allows: a stack that changes meanwhile cannot lead in circles."""
_TRIES = 10
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep  # noqa: PTH100, PTH120  # pathlib is slow to import
_SETS_HOLD_ALL_TASKS = sys.version_info < (3, 14)
_CHAINED = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
"""Frame of a coroutine, generator or asynchronous generator, and what it awaits."""
_WRAPPERS = frozenset({"coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable"})
"""Types that stand between what awaits and what is awaited, and have no attribute for the latter."""
_DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)
_DICT_OF_TYPE: Callable[[type], MappingProxyType[str, Any]] = type.__dict__["__dict__"].__get__

type Position = tuple[CodeType, int]
type Running = dict[int, tuple[CodeType, int]]
"""The frames of the tasks that run, by their identity, with their code and the number of the task. A frame that has
ended meanwhile may have left its identity to another one, which then has other code."""


def take(program: Program) -> dict[str, Any]:
    """The stacks, as data for JSON. Never raises; `problems` says what could not be read.

    - `frames`: positions in code, each once: `file`, `line`, `function`, `source` (stripped) and `own`, whether the
      file is one of the program's own.
    - `threads`: `name` ("" if it has none), `ident`, `daemon`, and `task`, the position in `tasks` of the one that it
      runs, or null.
    - `tasks`: those that are not done, with `name`, `ids`, `state` (`waiting`; `running`; `ready`, which waits for its
      turn; `new`, which has never run), `cancelling`, `waits_for` (a type) and `waits_for_task` (a name).
    - `tasks_left_out`: how many more there are.

    Each thread and task has its `stack`, positions in `frames`, the innermost last, and `left_out`: how many outer
    frames there are beyond MOST_FRAMES.
    """
    table = _Table()
    found: dict[str, Any] = {
        "pid": os.getpid(),
        "program": program.name,
        "python": sys.version.split()[0],
        "tasks": [],
        "threads": [],
        "frames": [],
        "tasks_left_out": 0,
        "problems": [],
    }
    running: Running = {}

    def attempt(part: str, read: Callable[..., None], *arguments: Any) -> None:
        try:
            read(*arguments)
        except Exception as error:  # noqa: BLE001  # whatever a later Python changes: all else is still shown
            problem = f"{part}: {type_name(type(error))}: {error}"
            found["problems"] += [problem] if problem not in found["problems"] else []

    def read_tasks() -> None:
        tasks = _tasks()
        found["tasks_left_out"] = max(0, len(tasks) - MOST_TASKS)
        for task in tasks[:MOST_TASKS]:
            attempt("a task", read_task, task)

    def read_task(task: _Task) -> None:
        found["tasks"].append(_shown(task, table, running, len(found["tasks"])))

    attempt("tasks", read_tasks)
    attempt("threads", lambda: found["threads"].extend(_threads(table, running)))
    found["frames"] = table.frames()
    attempt("sources", _complete, found["frames"], program.folders)
    return found


class _Table:
    """Positions in code, each of which gets a number."""

    def __init__(self) -> None:
        self._positions: list[Position] = []
        self._numbers: dict[tuple[int, int], int] = {}

    def stack(self, positions: Iterable[Position]) -> list[int]:
        """The numbers of positions."""
        return [self._number(*position) for position in positions]

    def _number(self, code: CodeType, line: int) -> int:
        # By identity: the hash of a code object calls that of its constants.
        number = self._numbers.setdefault((id(code), line), len(self._positions))
        if number == len(self._positions):
            self._positions.append((code, line))
        return number

    def frames(self) -> list[dict[str, Any]]:
        """The positions in the order of their numbers."""
        return [
            {"file": code.co_filename, "line": line, "function": code.co_qualname, "source": "", "own": False}
            for code, line in self._positions
        ]


def _complete(frames: Iterable[dict[str, Any]], folders: Iterable[str]) -> None:
    """Add the sources, and whose the files are."""
    own, sources = OwnFiles(folders), Sources()
    for frame in frames:
        file = frame["file"]
        frame["own"] = file in own
        # Not linecache: it asks the loaders that the program has. Not what is no file: a pipe would be waited for.
        if os.path.isfile(file):  # noqa: PTH113
            frame["source"] = sources.get(file).line(frame["line"]).strip()[:LONGEST_SOURCE]


# --- Threads --------------------------------------------------------------------------------------------------------


def _threads(table: _Table, running: Running) -> list[dict[str, Any]]:
    """All threads but those of the listener, in the order in which they were started."""
    names = _names_of_threads()
    frames = sys._current_frames()
    del frames[_thread.get_ident()]
    order = [*(ident for ident in names if ident in frames), *(ident for ident in frames if ident not in names)]
    found = []
    for ident in order:
        positions, left_out, task = _of_thread(frames.pop(ident), running)
        if positions[0][0].co_filename.startswith(_PACKAGE) and ident not in names:
            continue
        name, daemon = names.get(ident, ("", True))
        stack = table.stack(positions)
        found.append(
            {"name": name, "ident": ident, "daemon": daemon, "task": task, "stack": stack, "left_out": left_out}
        )
    return found


def _names_of_threads() -> dict[int, tuple[str, bool]]:
    """Identifier -> name and whether it is a daemon, of the threads that the module threading knows.

    Neither its lock is taken, which what hangs may hold, nor a property of a thread is asked.
    """
    threading = sys.modules.get("threading")
    if threading is None:
        return {}
    attributes = _DICT_OF_TYPE(threading.Thread)["__dict__"].__get__
    known = {ident: attributes(thread) for ident, thread in dict(threading._active).items()}
    return {ident: (str(values["_name"]), bool(values["_daemonic"])) for ident, values in known.items()}


def _of_thread(frame: FrameType | None, running: Running) -> tuple[list[Position], int, int | None]:
    """The positions, how many were left out, and the number of the task that the thread runs.

    No frame is kept longer than needed: one that outlives its function keeps the values of the program alive, and this
    thread would be the one to free them.
    """
    positions: deque[Position] = deque(maxlen=MOST_FRAMES)
    steps, task = 0, None
    while frame is not None and steps < _DEEPEST:
        code = frame.f_code
        if steps < MOST_FRAMES:
            positions.appendleft((code, frame.f_lineno or code.co_firstlineno))
        # The innermost one: a task that begins at once runs within the one that made it.
        if task is None and (known := running.get(id(frame))) is not None and known[0] is code:
            task = known[1]
        frame = frame.f_back
        steps += 1
    return list(positions), max(0, steps - MOST_FRAMES), task


# --- Tasks ----------------------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """A task, and the class of asyncio that it is of or inherits from: C or Python."""

    name: str
    kind: Any
    task: Any


def _tasks() -> list[_Task]:
    """The tasks of all event loops that are not done, the oldest first as far as their names say."""
    module = sys.modules.get("asyncio.tasks")
    if module is None:
        return []
    # Up to Python 3.13, asyncio keeps all tasks of all loops in two sets: a weak one, and one for tasks that begin at
    # once. `asyncio.all_tasks` must be told the loop, which nothing lists, and copies the weak set with code that fails
    # when a task is made meanwhile. The set of references in it is copied in one step of the interpreter.
    #
    # Since 3.14 the sets only hold tasks that are not asyncio's own. All others are in lists of the interpreter, which
    # only all_tasks reads, for one loop.
    if _SETS_HOLD_ALL_TASKS:
        scheduled = (reference() for reference in list(module._scheduled_tasks.data))
        found = [*scheduled, *list(module._eager_tasks)]
    else:
        found = [task for loop in _loops() for task in _tasks_of(module, loop)]
    tasks = []
    for task in {id(task): task for task in found}.values():
        kind = _kind(task, module.Task, module._PyTask)
        if kind is not None and not kind.done(task):
            tasks.append(_Task(kind.get_name(task), kind, task))
    return sorted(tasks, key=lambda task: (len(task.name), task.name))


def _loops() -> list[Any]:
    """All event loops, whoever wrote them: only the garbage collector knows them all."""
    base = sys.modules["asyncio.events"].AbstractEventLoop
    return [found for found in gc.get_objects() if issubclass(type(found), base)]


def _tasks_of(module: Any, loop: Any) -> list[Any]:
    for _ in range(_TRIES):
        try:
            return list(module.all_tasks(loop))
        except RuntimeError:  # a task was made meanwhile
            continue
    raise RuntimeError("tasks are made faster than they can be listed")


def _kind(value: object, *kinds: Any) -> Any:
    """The first of the classes that a value is of or inherits from, or None."""
    return next((kind for kind in kinds if issubclass(type(value), kind)), None)


def _shown(task: _Task, table: _Table, running: Running, number: int) -> dict[str, Any]:
    coroutine = task.kind.get_coro(task.task)
    positions, left_out = _chain(coroutine)
    found = {
        "name": task.name,
        "ids": _ids(task.kind.get_context(task.task)),
        "state": "waiting",
        "cancelling": task.kind.cancelling(task.task) > 0,
        "waits_for": "",
        "waits_for_task": "",
        "stack": table.stack(positions),
        "left_out": left_out,
    }
    waiter = _waiter(task)
    if _read(coroutine, "cr_running"):
        found["state"] = "running"
        frame = _read(coroutine, "cr_frame")
        if type(frame) is FrameType:
            running[id(frame)] = (frame.f_code, number)
    elif _read(coroutine, "cr_suspended") is False:
        found["state"] = "new"
    elif waiter is None or _is_done(waiter):
        found["state"] = "ready"
    else:
        # Classes that are written in C are in a module with an underscore.
        found["waits_for"] = type_name(type(waiter)).removeprefix("_")
        module = sys.modules["asyncio.tasks"]
        if (kind := _kind(waiter, module.Task, module._PyTask)) is not None:
            found["waits_for_task"] = kind.get_name(waiter)
    return found


def _ids(context: Context) -> dict[str, str]:
    """The ids of the scope that a task is in."""
    scope = context.get(current)
    return {name: value for name, value in scope.ids.items() if type(value) is str} if type(scope) is Scope else {}


def _waiter(task: _Task) -> Any:
    """The future that a task waits for; None if it waits for its turn, or runs."""
    described = _DICT_OF_TYPE(task.kind).get("_fut_waiter")
    if described is None:  # the class that is written in Python
        return object.__getattribute__(task.task, "_fut_waiter")
    return described.__get__(task.task)


def _is_done(waiter: Any) -> bool:
    module = sys.modules["asyncio.futures"]
    kind = _kind(waiter, module.Future, module._PyFuture)
    return kind is not None and bool(kind.done(waiter))


def _chain(awaitable: Any) -> tuple[list[Position], int]:
    """The positions of a coroutine and of what it awaits, the innermost last, and how many were left out."""
    positions: deque[Position] = deque(maxlen=MOST_FRAMES)
    count = 0
    for _ in range(_DEEPEST):
        if _is_wrapper(awaitable):
            # Whatever a class of this name holds, only what has frames is followed.
            held = gc.get_referents(awaitable)
            awaitable = next((each for each in held if _is_wrapper(each) or _names_of(each) is not None), None)
            continue
        names = _names_of(awaitable)
        if names is None:
            break
        frame = _read(awaitable, names[0])
        if type(frame) is FrameType:
            positions.append((frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno))
            count += 1
        awaitable = _read(awaitable, names[1])
    return list(positions), count - len(positions)


def _is_wrapper(awaitable: Any) -> bool:
    return type_name(type(awaitable)).rpartition(".")[2] in _WRAPPERS


def _names_of(awaitable: Any) -> tuple[str, str] | None:
    """The attributes of an awaitable that has frames, see _CHAINED: also one that Cython made, as in uvloop."""
    attributes = _DICT_OF_TYPE(type(awaitable))
    return next((names for names in _CHAINED if type(attributes.get(names[0])) in _DESCRIPTORS), None)


def _read(value: Any, name: str) -> Any:
    """An attribute, if a type that is written in C has it. Those of other types are code of the program."""
    attributes = _DICT_OF_TYPE(type(value))
    return attributes[name].__get__(value) if type(attributes.get(name)) in _DESCRIPTORS else None
