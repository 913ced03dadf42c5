"""One trace over many hosts: arms them, brings their lines into the order of time, and ends them all."""

from __future__ import annotations

import heapq
import itertools
import queue
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, cast

from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.trace.host_trace import Event, HostTrace, armed
from ops.trace.order import Order
from ops.trace.recording import HostLine

LOOK_SECONDS = 1.0
REORDER_SECONDS = 0.5
"""A line is shown so long after it came: lines of other hosts that are older may still come."""
ENDING_SECONDS = 12.0
"""For the last words of a host; longer than `attach` waits for a process."""
SILENT_SECONDS = 6.0
"""A process says each second how much it has shown; after so long without a word its host is lost."""
STARTING_SECONDS = 20.0
"""For the first word of a host: a connection by SSH, and the start of Python there."""
WAIT_SECONDS = 0.1
SERVED, JOB_ENDED = "its request was served", "its job has ended"
"""Why linetrace ends a trace by itself (monitor.py there)."""


@dataclass
class Process:
    """A traced process. `held`: lines that are not shown until it is known whether they are wanted."""

    command: HostTrace
    name: str
    armed: bool = False
    lines: int = 0
    dropped: int = 0
    ended: str = ""
    upload: str = ""
    held: list[HostLine] = field(default_factory=list)

    @property
    def host(self) -> str:
        """The name of its host."""
        return self.command.host.name


@dataclass(frozen=True)
class Progress:
    """The state of a trace, for its display: `hosts` are armed, from `pending` there was no answer yet."""

    lines: int
    dropped: int
    seconds_left: float
    hosts: int
    pending: int


class TraceSession:
    """See the module. `why` says afterwards why the trace ended. `tell` is called with what people should know."""

    def __init__(
        self,
        environment: Environment,
        order: Order,
        hosts: Sequence[Host],
        *,
        by: str,
        reason: str = "",
        tell: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.id = secrets.token_hex(4)
        self.why = ""
        self.processes: dict[tuple[str, str], Process] = {}
        self._environment = environment
        self._order = order
        self._tell = tell
        self._problems: list[str] = []
        self._about = [f"--id=trace={self.id}", f"--by={by}", f"--reason={reason}"]
        self._events: queue.Queue[Event] = queue.Queue()
        self._hosts = hosts
        self._open: dict[str, HostTrace] = {}
        self._lines = 0
        self._deadline = 0.0
        self._stopping = 0.0
        self._interrupted = False
        self._upload = ""
        self._winner: Process | None = None
        self._waiting: list[tuple[float, int, float, HostLine]] = []
        self._numbers = itertools.count()
        self._unknown: list[str] = []
        self._known = False

    def start(self) -> None:
        """Begin to arm the hosts."""
        self._open = {host.name: self._command(host) for host in self._hosts}
        self._deadline = time.monotonic() + self._order.seconds

    def run(self, show: Callable[[list[HostLine]], None], tick: Callable[[Progress], None]) -> None:
        """After `start`: trace until it ends. `show` gets lines in the order of time, `tick` the state now and then.

        Ctrl-C ends it in good order; a second one breaks it off. Raises Failure if no host can be traced, or none knows
        the function.
        """
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            self._loop(show, tick)
        finally:
            signal.signal(signal.SIGINT, before)
        show(self._due(float("inf")))
        self._judge()

    def _loop(self, show: Callable[[list[HostLine]], None], tick: Callable[[Progress], None]) -> None:
        looked_at = time.monotonic()
        while self._open:
            self._take(self._arrived())
            now = time.monotonic()
            if now - looked_at >= LOOK_SECONDS:
                looked_at = now
                self._give_up(now)
            if lines := self._due(now):
                show(lines)
            tick(self.progress)
            if self._interrupted:
                self.stop("Ctrl-C")
            if now > self._deadline:
                self.stop(f"its {self._order.seconds} s are over")
            if self._stopping and now - self._stopping > ENDING_SECONDS:
                for name in self._open:
                    self._problem(f"{name}: not a word about the end of the trace")
                break

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def stop(self, why: str) -> None:
        """End the trace on all hosts. The first reason stays."""
        if not self._stopping:
            self._stopping = time.monotonic()
            self.why = self.why or why
            for host in self._open.values():
                host.stop()

    @property
    def progress(self) -> Progress:
        """The present state."""
        processes = self.processes.values()
        return Progress(
            lines=self._lines,
            dropped=sum(process.dropped for process in processes),
            seconds_left=max(0.0, self._deadline - time.monotonic()),
            hosts=len({process.host for process in processes if process.armed and not process.ended}),
            pending=self._pending(),
        )

    def _pending(self) -> int:
        """How many hosts have not said yet whether they are armed."""
        return len(set(self._open) - {process.host for process in self.processes.values() if process.armed})

    # --- What comes from the hosts ----------------------------------------------------------------------------------

    def _command(self, host: Host) -> HostTrace:
        return HostTrace(self._environment, host, self._order, self._about, self._events)

    def _arrived(self) -> Iterable[Event]:
        """Events, as soon as there are any, or after WAIT_SECONDS none."""
        try:
            yield self._events.get(timeout=WAIT_SECONDS)
            for _ in range(5_000):
                yield self._events.get_nowait()
        except queue.Empty:
            return

    def _take(self, events: Iterable[Event]) -> None:
        for trace, news in events:
            if self._open.get(trace.host.name) is not trace:
                continue  # given up, or another one has taken its place
            if news is None:
                del self._open[trace.host.name]
            elif isinstance(news, Failure):
                self._problem(news.message)
            else:
                self._message(trace, news)

    def _message(self, trace: HostTrace, message: dict[str, Any]) -> None:
        name = message.pop("process")
        process = self.processes.setdefault((trace.host.name, name), Process(trace, name))
        process.command = trace
        match message["type"]:
            case "line":
                self._line(process, cast("HostLine", {"host": trace.host.name, "process": name, **message}))
            case "count":
                process.dropped = message["dropped"]
            case "ended":
                process.dropped = message["dropped"]
                self._ended(process, message["reason"])
            case "refused" | "lost" as kind:
                process.armed, process.ended = True, kind
                self._problem(f"{trace.host.name} {name}: {message['error']}")
            case "armed":
                process.armed, process.ended = True, ""
                if self._order.function:
                    self._functions(message)

    def _line(self, process: Process, line: HostLine) -> None:
        if line["kind"] == "notice" and line["source"].startswith("## ended"):
            return
        if line["kind"] == "notice":
            self._tell(f"{process.host} {process.name}: {line['source'].removeprefix('## ')}")
        upload = line.get("ids", {}).get("upload", "")
        if self._order.of_one and not self._won(process):
            return
        if self._order.next_upload:
            process.upload = upload or process.upload
            if upload and not self._upload:
                self._follow(process, upload)
            if not self._upload:
                process.held.append(line)
                return
            if process.upload != self._upload:
                return
        self._shown(process, line)

    def _problem(self, text: str) -> None:
        self._problems.append(text)
        self._tell(text)

    def _give_up(self, now: float) -> None:
        """Wait no longer for hosts of which nothing is heard, or nothing any more."""
        for name, command in list(self._open.items()):
            if command.heard and now - command.heard > SILENT_SECONDS:
                self._problem(f"{name} is silent: its trace is lost, and ends there by itself")
            elif not command.heard and now - command.began > STARTING_SECONDS:
                self._problem(f"{name} does not answer")
            else:
                continue
            command.stop()
            del self._open[name]
            for process in self.processes.values():
                if process.host == name:
                    process.ended = process.ended or "lost"

    def _shown(self, process: Process, line: HostLine) -> None:
        if line["kind"] != "ids":
            process.lines += 1
            self._lines += 1
            heapq.heappush(self._waiting, (line["time"], next(self._numbers), time.monotonic(), line))
            if self._lines >= self._order.lines:
                self.stop(f"it has shown {self._order.lines:,} lines")

    def _won(self, process: Process) -> bool:
        """Whether the process is the one that has what only one can have; the others are let go."""
        if self._winner is None:
            self._winner = process
            for host in self._open.values():
                if host is not process.command:
                    host.stop()
        return self._winner is process

    def _follow(self, process: Process, upload: str) -> None:
        """The next upload is this one: all other processes follow it, and what they held was of another one."""
        self._upload = upload
        for host in self._open.values():
            host.follow(upload)
        for line in process.held:
            self._shown(process, line)
        for each in self.processes.values():
            each.held.clear()

    def _ended(self, process: Process, reason: str) -> None:
        if self._order.next_upload and reason == SERVED and not self._stopping:
            # The creation was refused, so it is not the next upload.
            process.held.clear()
            process.command.stop()
            again = self._open[process.host] = self._command(process.command.host)
            if self._upload:
                again.follow(self._upload)
            return
        process.ended = reason
        # What is traced has ended there: it cannot go on elsewhere.
        if reason in (SERVED, JOB_ENDED) and (process.lines or not self._order.of_one):
            self.stop(reason)
        elif all(each.ended for each in self.processes.values()):
            self.why = self.why or reason

    def _functions(self, message: dict[str, Any]) -> None:
        self._known = self._known or bool(message["functions"])
        self._unknown += [name for name in message["near"] if name not in self._unknown]
        if not self._known and not self._pending():
            self.stop("no process knows the function")

    def _due(self, now: float) -> list[HostLine]:
        """Lines that came long enough ago, in the order of time."""
        lines: list[HostLine] = []
        while self._waiting and now - self._waiting[0][2] >= REORDER_SECONDS:
            lines.append(heapq.heappop(self._waiting)[3])
        return lines

    def _judge(self) -> None:
        """Raises Failure if there was nothing to trace."""
        if self._order.function and not self._known and self.processes:
            near = f" Similar: {', '.join(self._unknown)}." if self._unknown else ""
            raise Failure(
                f"No process knows a function '{self._order.function}'.",
                f"Write module.function or module.Class.method; * stands for anything.{near}",
                Exit.USAGE,
            )
        if not self._lines and all(process.ended in ("refused", "lost") for process in self.processes.values()):
            raise Failure(
                f"Nothing could be traced. {' '.join(self._problems)}",
                f"See: ./inv status --env={self._environment.name}",
                Exit.UNAVAILABLE,
            )


@dataclass(frozen=True)
class Proof:
    """What hosts say after a trace: `disarmed` hosts have nothing of it, `armed` processes still have; `problems` say
    why others do not say so. `others` are traces of other people.
    """

    disarmed: list[str] = field(default_factory=list)
    armed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def proof(environment: Environment, order: Order, hosts: Sequence[Host], trace_id: str) -> Proof:
    """Ask all hosts what is armed there."""
    found = Proof()

    def ask(host: Host) -> dict[str, dict[str, Any]] | Failure:
        try:
            return armed(environment, host, order.groups)
        except Failure as failure:
            return failure

    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        answers = list(pool.map(ask, hosts))
    for host, answer in zip(hosts, answers, strict=True):
        if isinstance(answer, Failure):
            found.problems.append(answer.message)
            continue
        silent = armed_here = False
        for name, status in answer.items():
            process = f"{host.name} {name}"
            if "error" in status:
                silent = True
                found.problems.append(f"{process}: {status['error']}.")
            for trace in status.get("traces", ()):
                if trace["ids"].get("trace") == trace_id:
                    armed_here = True
                    found.armed.append(process)
                else:
                    found.others.append(f"{process} is also traced by {trace['by']}")
        if not silent and not armed_here:
            found.disarmed.append(host.name)
    return found
