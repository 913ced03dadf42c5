"""Ansible callback plugin: writes what happens in a playbook, as it happens, to the file that LONGHAUL_EVENTS names."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.playbook.block import Block
from ansible.playbook.handler import Handler
from ansible.plugins.callback import CallbackBase
from ansible.utils.helpers import pct_to_int

DOCUMENTATION = """
name: events
type: notification
short_description: Write down how far a playbook is, what it changes, retries, and what fails
description:
  - One line of JSON for each event, with C(event) (its kind) and C(at) (seconds of the monotonic clock). Read by
    ops/ansible.py and ops/playbook_display.py.
  - C(play) begins a play, or one of its batches, with C(play) (its name) and C(hosts).
  - C(task) begins a task, with C(role), C(task), C(number) (of tasks begun so far), C(total) (of all that are known)
    and C(hosts) (on how many it will run; 0 when not known).
  - C(ended) says that it has ended on a C(host), as on C(done) of C(hosts).
  - C(changed) says that it changed something on a C(host), or would in check mode, with C(role), C(task) and C(item)
    (the path or name that it changed).
  - C(warned) says that its module warns of something, with C(reason).
  - C(retried) says that an attempt did not succeed, with C(reason), and that C(attempt) of C(attempts) follows.
  - C(failed) says that it failed on a C(host), with C(reason) and C(outcome), which is C(failed), C(unreachable),
    C(rescued) (the playbook goes on with the block's rescue) or C(ignored).
  - C(end) ends the playbook, with C(hosts) (host -> number of tasks that changed something).
requirements:
  - The environment variable C(LONGHAUL_EVENTS) names a file.
"""

ITEM_KEYS = ("dest", "path", "name")
TEMPORARY = "/.ansible/tmp/"
"""In the path of a file that Ansible made to be copied."""
OF_SSH = re.compile(r".*(lines received:\n|can be reached over ssh: )", re.DOTALL)
"""How mitogen and Ansible introduce what SSH has said."""
NOT_TOLD = "it keeps its output secret"


class Plan:
    """How many tasks a playbook has, and how many were begun.

    Known from the start: the tasks of plays and roles, once for each batch of hosts. The others (of a rescue, of an
    include_tasks, handlers) are added when the first of them begins. What was planned and skipped counts as begun when
    the next batch begins, so the number never exceeds the total, and never goes back.
    """

    def __init__(self, plays: Sequence[Any]) -> None:
        self._ahead = [(play._uuid, frozenset(_tasks(play.compile()))) for play in plays for _ in range(_batches(play))]
        self._before = 0  # tasks of the batches before this one
        self._planned: frozenset[str] = frozenset()  # tasks of this batch, as known from the start
        self._known: set[str] = set()  # with those that were added
        self._begun: set[str] = set()
        self._handlers = 0

    @property
    def total(self) -> int:
        return self._before + len(self._known) + sum(len(tasks) for _, tasks in self._ahead)

    @property
    def number(self) -> int:
        return self._before + len(self._begun)

    def begin_batch(self, play: Any) -> None:
        """Begin the next batch of a play."""
        self._before += len(self._known)
        self._planned, self._known, self._begun = frozenset(), set(), set()
        while self._ahead and play._uuid in {uuid for uuid, _ in self._ahead}:
            uuid, tasks = self._ahead.pop(0)
            if uuid == play._uuid:
                self._planned, self._known = tasks, set(tasks)
                return
            self._before += len(tasks)  # a play whose hosts had all failed

    def begin_task(self, task: Any) -> bool:
        """Begin a task; whether it was planned from the start."""
        if isinstance(task, Handler):  # may run several times
            self._handlers += 1
            new = f"{task._uuid} {self._handlers}"
            self._known.add(new)
            self._begun.add(new)
            return False
        if task._uuid not in self._known:
            self._known |= {task._uuid, *_tasks(_section(task))}
        self._begun.add(task._uuid)
        return task._uuid in self._planned


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core has no types
    """Hears of everything."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        path = os.environ.get("LONGHAUL_EVENTS")
        self._file = Path(path).open("a") if path else None  # noqa: SIM115 # as long as the process
        self._plan = Plan([])
        self._here: set[str] = set()
        """Hosts of the batch that have not failed."""
        self._everywhere = False
        """Whether the task runs on all of them."""
        self._on: set[str] = set()
        self._done: set[str] = set()
        """Hosts on which the task was begun, and has ended."""
        self._items: dict[str, str] = {}
        """Host -> why the first item failed of a task with a loop, which says itself only that one did."""

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Count the tasks."""
        self._plan = Plan(playbook.get_plays())

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """A play begins, or its next batch of hosts: the inventory is restricted to them."""
        self._plan.begin_batch(play)
        self._here = {host.get_name() for host in _inventory(play).get_hosts(play.hosts)}
        self._write("play", play=play.get_name(), hosts=sorted(self._here))

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002
        """A task begins."""
        if task.action in constants._ACTION_META:
            return
        self._everywhere = self._plan.begin_task(task) and task.run_once is not True
        self._on, self._done, self._items = set(), set(), {}
        number, total = self._plan.number, self._plan.total
        self._write("task", **_what(task), number=number, total=total, hosts=self._expected())

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """A handler begins."""
        self.v2_playbook_on_task_start(task, is_conditional=False)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:  # noqa: ARG002
        """A task begins on a host."""
        self._on.add(host.get_name())

    def v2_runner_retry(self, result: Any) -> None:
        """An attempt did not succeed, and another one follows."""
        said = result.result
        counts = {"attempt": int(said.get("attempts", 1)), "attempts": int(said.get("retries", 1))}
        self._write("retried", **_where(result), **counts, reason=_reason(said))

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task has ended well on a host; one with a loop ends once, after its items."""
        said = result.result
        if said.get("changed") and "results" not in said:
            self._write("changed", **_where(result), item=_item(said))
        if not _is_secret(said):
            for warning in result.warnings:
                self._write("warned", **_where(result), reason=warning.event.msg)
        self._ended(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """A task does not apply to a host."""
        self._ended(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """An item of a loop has ended well."""
        if result.result.get("changed"):
            self._write("changed", **_where(result), item=_item(result.result))

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """An item of a loop has failed."""
        self._items.setdefault(result.host.get_name(), _reason(result.result))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task has failed on a host."""
        self._ended(result)
        outcome = "ignored" if ignore_errors else "rescued" if _is_rescued(result.task) else "failed"
        self._failed(result, outcome)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host does not answer."""
        self._ended(result)
        self._failed(result, "ignored" if result.task.ignore_unreachable is True else "unreachable")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The playbook has ended."""
        self._write("end", hosts={host: stats.summarize(host)["changed"] for host in sorted(stats.processed)})

    def _failed(self, result: Any, outcome: str) -> None:
        if outcome in {"failed", "unreachable"}:
            self._here.discard(result.host.get_name())
        reason = self._items.get(result.host.get_name()) or _reason(result.result)
        self._write("failed", **_where(result), outcome=outcome, reason=reason)

    def _ended(self, result: Any) -> None:
        self._done.add(result.host.get_name())
        expected = max(self._expected(), len(self._on | self._done))
        self._write("ended", host=result.host.get_name(), done=len(self._done), hosts=expected)

    def _expected(self) -> int:
        return len(self._here) if self._everywhere else 0

    def _write(self, event: str, **values: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"event": event, "at": time.monotonic(), **values}) + "\n")
            self._file.flush()


def _tasks(section: Sequence[Any]) -> Iterator[str]:
    """The tasks of a list of blocks and tasks that run when none fails."""
    for entry in section:
        if isinstance(entry, Block):
            yield from _tasks([*entry.block, *entry.always])
        elif entry.action not in constants._ACTION_META:
            yield entry._uuid


def _sections(block: Any) -> tuple[Sequence[Any], ...]:
    return block.block, block.rescue, block.always


def _section(task: Any) -> Sequence[Any]:
    """The part of its block that a task stands in."""
    if isinstance(task._parent, Block):
        for section in _sections(task._parent):
            if any(entry._uuid == task._uuid for entry in section):
                return section
    return []


def _is_rescued(task: Any) -> bool:
    """Whether a block around a task goes on with its rescue when the task fails."""
    entry = task
    while (parent := entry._parent) is not None:
        if isinstance(parent, Block) and parent.rescue and any(each._uuid == entry._uuid for each in parent.block):
            return True
        entry = parent
    return False


def _inventory(play: Any) -> Any:
    return play.get_variable_manager()._inventory


def _batches(play: Any) -> int:
    """In how many batches a play runs (`serial`): the last number of its list counts again and again."""
    left = hosts = len(_inventory(play).get_hosts(play.hosts))
    # As written: it is made a list when the play begins.
    sizes = (play.serial if isinstance(play.serial, list) else [play.serial]) or [-1]
    batches = 0
    while left > 0:
        size = pct_to_int(sizes[min(batches, len(sizes) - 1)], hosts)
        left -= size if size > 0 else left
        batches += 1
    return batches


def _what(task: Any) -> dict[str, str]:
    role = getattr(task, "_role", None)
    return {"role": role.get_name() if role else "", "task": task.name or task.action}


def _where(result: Any) -> dict[str, str]:
    return {"host": result.host.get_name(), **_what(result.task)}


def _is_secret(said: dict[str, Any]) -> bool:
    return bool(said.get("_ansible_no_log") or "censored" in said)


def _reason(said: dict[str, Any]) -> str:
    """What a failed task says; a command says more on its standard error, or in its last line."""
    if _is_secret(said):
        return NOT_TOLD
    text = str(said.get("stderr") or "").strip() or str(said.get("stdout") or "").strip().rpartition("\n")[2]
    message = str(said.get("msg") or "it does not say why").strip()
    return text or OF_SSH.sub("", message)


def _item(said: dict[str, Any]) -> str:
    """What was changed, as far as the module tells; in check mode some tell it in the diff alone."""
    if _is_secret(said):
        return ""
    diffs = said.get("diff") or []
    diff = next((entry for entry in (diffs if isinstance(diffs, list) else [diffs]) if isinstance(entry, dict)), {})
    headers = (diff.get("before_header"), diff.get("after_header"))
    values = [*(said.get(key) for key in ITEM_KEYS), *headers, said.get("_ansible_item_label")]
    return next((value for value in values if isinstance(value, str) and value and TEMPORARY not in value), "")
