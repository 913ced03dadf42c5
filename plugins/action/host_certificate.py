"""Ansible action plugin: the part of `host_certificate` on the control side, which has the authority's key and signs.

The options are documented in plugins/modules/host_certificate.py, which runs on the host.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

# Ansible loads plugins by path, without the repository in Python's path.
sys.path.append(str(Path(__file__).resolve().parents[2]))
from ops import pki

HOST_OPTIONS = ("key", "certificate", "combined", "placeholder", "group")
OWN_OPTIONS = ("common_name", "names", "authority", "authority_key", "days", "renew_days")


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """One task: one module call when the certificate is good, two when it is replaced."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset((*HOST_OPTIONS, *OWN_OPTIONS, "renew"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Read the host's certificate and key, sign a new certificate if there is a reason, and send it to the host."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        missing = [name for name in (*OWN_OPTIONS, "key", "certificate") if name not in arguments]
        if missing:
            raise AnsibleActionFail(f"missing options: {', '.join(missing)}")
        on_host = {name: arguments[name] for name in HOST_OPTIONS if arguments.get(name) is not None}
        found = self._execute_module(module_name="host_certificate", module_args=on_host, task_vars=task_vars)
        if found.get("failed"):
            return {**result, **found}
        reason = self._reason(found)
        if reason and not self._task.check_mode:
            stored = self._execute_module(
                module_name="host_certificate",
                module_args={**on_host, "signed": self._sign(found["request"])},
                task_vars=task_vars,
            )
            if stored.get("failed"):
                return {**result, **stored}
        return {**result, "changed": bool(reason) or found["changed"], "reason": reason}

    def _reason(self, found: dict[str, Any]) -> str:
        if found.get("kept"):
            return ""
        if found.get("key_missing"):
            return "there is no key"
        return pki.reason_to_renew(
            found["present"],
            found["request"],
            self._subject(),
            authority=self._task.args["authority"],
            renew_days=int(self._task.args["renew_days"]),
            now=datetime.datetime.now(datetime.UTC),
            renew=boolean(self._task.args.get("renew", False)),
        )

    def _subject(self) -> pki.Subject:
        return pki.Subject.of(self._task.args["common_name"], self._task.args["names"])

    def _sign(self, request: str) -> str:
        arguments = self._task.args
        try:
            return pki.sign(
                request,
                self._subject(),
                arguments["authority"],
                arguments["authority_key"],
                int(arguments["days"]),
            )
        except (ValueError, TypeError) as error:
            raise AnsibleActionFail(f"cannot sign: {error}") from error
