"""Ansible callback plugin: writes what was changed and what failed to the file that LONGHAUL_CHANGES names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: changes
type: notification
short_description: Write down what was changed where, and what failed
description:
  - One line of JSON for each task that changed something on a host, or would in check mode, with C(host), C(role),
    C(task), C(item) (the path or name that it changed) and an empty C(failure).
  - The same for each task that failed, and for each host that could not be reached; C(failure) says why. Read by
    ops/ansible.py.
requirements:
  - The environment variable C(LONGHAUL_CHANGES) names a file.
"""

ITEM_KEYS = ("dest", "path", "name")


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core has no types
    """Hears of every result."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "changes"
    CALLBACK_NEEDS_ENABLED = True

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task has ended well on a host; one with a loop ends once, after its items."""
        said = result.result
        if said.get("changed") and "results" not in said:
            self._write(result, said)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """An item of a loop has ended well."""
        if result.result.get("changed"):
            self._write(result, result.result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task has failed on a host."""
        if not ignore_errors:
            self._write(result, result.result, failure=_reason(result.result))

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host does not answer."""
        self._write(result, result.result, failure=_reason(result.result))

    def _write(self, result: Any, said: dict[str, Any], failure: str = "") -> None:
        if not (path := os.environ.get("LONGHAUL_CHANGES")):
            return
        role = getattr(result.task, "_role", None)
        line = {
            "host": result.host.get_name(),
            "role": role.get_name() if role else "",
            "task": result.task.name or result.task.action,
            "item": _item(said),
            "failure": failure,
        }
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")


def _reason(said: dict[str, Any]) -> str:
    """What a failed task says; a command says more on its standard error, or in its last line."""
    if said.get("_ansible_no_log") or "censored" in said:
        return "it keeps its output secret"
    text = str(said.get("stderr") or "").strip() or str(said.get("stdout") or "").strip().rpartition("\n")[2]
    return text or str(said.get("msg") or "it does not say why").strip()


def _item(said: dict[str, Any]) -> str:
    """What was changed, as far as the module tells; in check mode some tell it in the diff alone."""
    if said.get("_ansible_no_log") or "censored" in said:
        return ""
    diffs = said.get("diff") or []
    diff = next((entry for entry in (diffs if isinstance(diffs, list) else [diffs]) if isinstance(entry, dict)), {})
    values = [*(said.get(key) for key in ITEM_KEYS), diff.get("after_header"), said.get("_ansible_item_label")]
    return next((value for value in values if isinstance(value, str) and value), "")
