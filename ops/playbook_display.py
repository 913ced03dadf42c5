"""Shows how far a playbook is: a bar on a terminal, plain lines elsewhere.

Above the bar only what was changed, what was retried, and what failed or warns, one line each. Fed with the events that
plugins/callback/events.py writes.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

SLOWEST = 10
QUIET_SECONDS = 5
"""A task that takes longer shows its own time."""
HOSTS_NAMED = 3
"""On a terminal; more hosts of one line are counted."""
STYLES = {
    "changed": "yellow",
    "differs": "yellow",
    "warned": "yellow",
    "retried": "cyan",
    "ignored": "dim",
    "rescued": "magenta",
    "failed": "bold red",
    "unreachable": "bold red",
}
_WIDTH = 8
"""Of a line's first two columns: what, and where."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f-\x9f]+")
_ANSIBLE_STYLES = {"ok": "green", "changed": "yellow", "fatal": "red", "failed": "red", "skipping": "cyan"}
"""First word of a line of Ansible's output -> its colour."""


class Display:
    """What a person sees of one run of a playbook. `verbose`: Ansible's own output instead of bar and lines."""

    def __init__(self, name: str, console: Console, *, check: bool = False, verbose: bool = False) -> None:
        self._name = name
        self._console = console
        self._change = "differs" if check else "changed"
        self._verbose = verbose
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._began = time.monotonic()
        self._bar, self._row = _bar(console, visible=self._live and not verbose)
        self._play = ""
        self._hosts: list[str] = []
        self._task: Mapping[str, Any] = {}
        self._title = ""
        self._changed: dict[str, set[str]] = {}
        """Of the task in work: item -> the hosts on which it was changed."""
        self._retried: set[str] = set()
        """Of the task in work: the hosts on which it was tried again."""
        self._counts: Counter[str] = Counter()
        """Host -> number of tasks that changed something there."""
        self._times: dict[str, float] = {}
        """Task -> seconds that it took, all batches of hosts together."""
        self._on: set[str] = set()
        self._number = self._total = 0
        self._done = ""
        """How many hosts have done the task in work."""

    def __enter__(self) -> Self:
        self._bar.start()
        self._bar.update(self._row, description=f"{self._name}: reading the playbook")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show_changes()
        self._bar.stop()

    # What is heard

    def take(self, event: Mapping[str, Any]) -> None:
        """Show an event. Its times are of the clock that this process has too."""
        match event["event"]:
            case "play":
                self._end_task(event["at"])
                self._play, self._hosts, self._title = event["play"], event["hosts"], ""
                self._on.update(self._hosts)
            case "task":
                self._end_task(event["at"])
                self._begin_task(event)
            case "ended":
                self._done = _share(event["done"], event["hosts"])
            case "changed":
                self._changed.setdefault(event["item"], set()).add(event["host"])
            case "retried":
                self._show_retry(event)
            case "warned":
                self._line("warned", event["host"], _title(event), event["reason"])
            case "failed":
                self._line(event["outcome"], event["host"], _title(event), event["reason"])
            case "end":
                self._end_task(event["at"])
                self._counts.update(event["hosts"])

    def take_output(self, line: str) -> None:
        """Show a line of Ansible's own output, if that is wanted."""
        if self._verbose:
            style = _ANSIBLE_STYLES.get(line.partition(":")[0], "bold" if line.startswith(("PLAY", "TASK")) else "")
            self._console.print(Text(line, style=style), soft_wrap=True)

    def tick(self) -> None:
        """Show how far the task in work is, and for how long it runs. Called again and again."""
        seconds = time.monotonic() - self._task["at"] if self._task else 0
        state = [self._done, f"{seconds:.0f} s" if seconds > QUIET_SECONDS else ""]
        self._bar.update(self._row, state=", ".join(filter(None, state)))

    def _begin_task(self, event: Mapping[str, Any]) -> None:
        self._task, self._number, self._total = event, event["number"], event["total"]
        title = event["role"] or self._play
        if title != self._title:
            self._title = title
            if not (self._live or self._verbose):
                seconds = time.monotonic() - self._began
                where = f"{self._name} {self._number}/{self._total} ({seconds:.0f} s)"
                self._print(f"{where}: {title} on {_names(self._hosts)}")
        self._done = _share(0, event["hosts"])
        count = f"{self._number}/{self._total}"
        self._bar.update(self._row, total=self._total, completed=self._number, count=count, description=_title(event))

    def _end_task(self, at: float) -> None:
        if self._task:
            title = _title(self._task)
            self._times[title] = self._times.get(title, 0) + at - self._task["at"]
        self._show_changes()
        self._task = {}
        self._retried = set()

    # What is shown

    def _show_changes(self) -> None:
        """One line for all items that a task changed on the same hosts."""
        lines: dict[tuple[str, ...], list[str]] = {}
        for item, hosts in self._changed.items():
            lines.setdefault(tuple(sorted(hosts)), []).append(item)
        for where, items in lines.items():
            self._line(self._change, self._names(where), _title(self._task), ", ".join(filter(None, items)))
        self._changed = {}

    def _show_retry(self, event: Mapping[str, Any]) -> None:
        attempt = f"attempt {event['attempt']} of {event['attempts']}"
        self._bar.update(self._row, description=f"{_title(event)} ({attempt})")
        if event["host"] not in self._retried:
            self._retried.add(event["host"])
            self._line("retried", event["host"], _title(event), event["reason"])

    def _line(self, what: str, where: str, title: str, more: str) -> None:
        if self._verbose:
            return
        text = Text.assemble((f"{what:<{_WIDTH}}", STYLES[what]), f"  {where:<{_WIDTH}}  {title}")
        if more:
            text.append(f": {_plain(more)}", style="dim" if what == self._change else "")
        if self._live:
            text.truncate(self._console.width, overflow="ellipsis")
        self._print(text)

    def _names(self, hosts: Sequence[str]) -> str:
        return f"{len(hosts)} hosts" if self._live and len(hosts) > HOSTS_NAMED else _names(hosts)

    def _print(self, text: str | Text) -> None:
        self._console.print(text, markup=False, emoji=False, soft_wrap=True)

    # At the end

    def show_summary(self, *, failed: bool) -> None:
        """Show in one or two lines what there was, and with `verbose` the slowest tasks."""
        seconds = time.monotonic() - self._began
        hosts = self._on - {"localhost"} or self._on
        on = ", ".join(hosts) if len(hosts) == 1 else f"{len(hosts)} hosts"
        tasks = f"{self._total} tasks on {on} in {seconds:.0f} s"
        if failed:
            tasks = f"failed at task {self._number} of {self._total} after {seconds:.0f} s"
        changed = ", ".join(f"{host} {count}" for host, count in self._counts.items() if count)
        text = f"{self._name}: {tasks}; {self._change}: {changed or 'nothing'}"
        self._console.print(text, markup=False, emoji=False, soft_wrap=not self._live)
        if self._verbose:
            for line in self.slowest():
                self._print(line)

    def slowest(self) -> list[str]:
        """The tasks that took longest, all batches of hosts together, with a heading; no line if there was no task."""
        longest = sorted(self._times.items(), key=lambda entry: entry[1], reverse=True)[:SLOWEST]
        found = [f"{seconds:7.1f} s  {title}" for title, seconds in longest]
        return [f"slowest tasks of {self._name}:", *found] if found else []


def _bar(console: Console, *, visible: bool) -> tuple[Progress, TaskID]:
    bar = Progress(
        BarColumn(bar_width=30 if console.width >= 100 else 12),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        disable=not visible,
        expand=True,
        refresh_per_second=4,
        transient=True,
    )
    return bar, bar.add_task("", total=None, count="", state="")


def _share(done: int, hosts: int) -> str:
    return f"{done}/{hosts} hosts" if hosts else ""


def _title(what: Mapping[str, Any]) -> str:
    return f"{what['role']}: {what['task']}" if what["role"] else str(what["task"])


def _names(hosts: Sequence[str]) -> str:
    return ", ".join(hosts)


def _plain(text: str) -> str:
    """A text as one line without control characters."""
    return _CONTROL.sub(" ", text).strip()
