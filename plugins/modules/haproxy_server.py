#!/usr/bin/python3
"""Ansible module: waits until HAProxy sees a server in one of the wanted states, and watches its answers."""

from __future__ import annotations

import csv
import socket
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: haproxy_server
short_description: Wait for the state of a server in HAProxy
description:
  - Asks HAProxy's statistics socket until the server is in one of the wanted states. Never changes anything.
  - With C(watch), counts failed requests from the moment that an earlier call has returned as C(seen). So several load
    balancers are watched over the same time, although they are called one after another.
  - Succeeds at once in check mode.
options:
  socket:
    description: Path of the statistics socket.
    type: path
    required: true
  backend:
    description: Name of the backend.
    type: str
    required: true
  server:
    description: Name of the server in the backend.
    type: str
    required: true
  states:
    description:
      - Beginnings of the wanted states, as the column C(status) shows them, for instance C(UP), C(NOLB), C(DOWN).
    type: list
    elements: str
    required: true
  timeout:
    description: How long to wait, in seconds.
    type: float
    required: true
  watch:
    description:
      - Fail if the server leaves these states or answers with errors within this many seconds after C(since).
      - Errors are 5xx answers, failed connections, and answers that are missing or ended early.
    type: float
  since:
    description: The value C(seen) that an earlier call for this load balancer returned. Needs C(watch).
    type: dict
  errors:
    description: The module fails from this number of errors in that time on...
    type: int
    default: 1
  errors_percent:
    description: ...if they are also at least this percentage of the requests in that time.
    type: float
    default: 0
author: [The Longhaul authors]
"""

EXAMPLES = r"""
- name: Wait until web1 gets no new requests
  haproxy_server:
    socket: /run/haproxy/admin.sock
    backend: web
    server: web1
    states: [NOLB, DOWN]
    timeout: 20
"""

RETURN = r"""
state:
  description: The state that was seen last.
  type: str
  returned: always
seen:
  description: The counters of that moment, for C(since) of a later call.
  type: dict
  returned: success
"""

PAUSE_SECONDS = 0.2
# Columns of `show stat` (HAProxy's management guide, 9.1).
ERRORS = ("hrsp_5xx", "econ", "eresp")
REQUESTS = "stot"
WENT_DOWN = "chkdown"


def row_of(path: str, backend: str, server: str) -> dict[str, str]:
    """The server's row in the statistics, or an empty one if HAProxy does not know it. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(b"show stat\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    for row in csv.DictReader(answer.removeprefix("# ").splitlines()):
        if row["pxname"] == backend and row["svname"] == server:
            return row
    return {}


def seen(row: dict[str, str]) -> dict[str, float]:
    """The server's counters: errors, requests, how often it went down; and the time (monotonic)."""
    errors = sum(int(row.get(column) or 0) for column in ERRORS)
    return {
        "errors": errors,
        "requests": int(row.get(REQUESTS) or 0),
        "went_down": int(row.get(WENT_DOWN) or 0),
        "at": time.monotonic(),
    }


def watch(wanted: dict[str, Any]) -> str:
    """Watch the server; returns what is wrong with it, "" if nothing. Raises OSError."""
    before = wanted["since"]
    while True:
        row = row_of(wanted["socket"], wanted["backend"], wanted["server"])
        after = seen(row)
        if after["requests"] < before["requests"]:  # HAProxy was reloaded, and counts from 0 again
            before = {**before, "errors": 0, "requests": 0, "went_down": 0}
        if not row.get("status", "").startswith(tuple(wanted["states"])):
            return f"it went to '{row.get('status', 'unknown')}'"
        if after["went_down"] > before["went_down"]:
            return "it was down for a moment"
        if after["at"] >= before["at"] + wanted["watch"]:
            break
        time.sleep(PAUSE_SECONDS)
    errors, requests = after["errors"] - before["errors"], after["requests"] - before["requests"]
    if errors >= wanted["errors"] and errors * 100 >= wanted["errors_percent"] * requests:
        return f"{errors:g} of {requests:g} requests ended in errors"
    return ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "required": True},
            "backend": {"type": "str", "required": True},
            "server": {"type": "str", "required": True},
            "states": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "float", "required": True},
            "watch": {"type": "float"},
            "since": {"type": "dict"},
            "errors": {"type": "int", "default": 1},
            "errors_percent": {"type": "float", "default": 0},
        },
        required_together=[("watch", "since")],
        supports_check_mode=True,
    )
    wanted = module.params
    if module.check_mode:
        module.exit_json(changed=False, state="", seen={})
    deadline = time.monotonic() + wanted["timeout"]
    while True:
        row: dict[str, str] = {}
        try:
            row = row_of(wanted["socket"], wanted["backend"], wanted["server"])
            state = row.get("status", "")
        except OSError as error:
            state = f"HAProxy does not answer: {error}"
        if state.startswith(tuple(wanted["states"])):
            break
        if time.monotonic() > deadline:
            module.fail_json(
                msg=f"HAProxy sees {wanted['backend']}/{wanted['server']} as '{state or 'unknown'}' and not as one of "
                f"{', '.join(wanted['states'])} after {wanted['timeout']:g} s.",
                state=state,
            )
        time.sleep(PAUSE_SECONDS)
    try:
        wrong = watch(wanted) if wanted["watch"] else ""
    except OSError as error:
        wrong = f"HAProxy does not answer: {error}"
    if wrong:
        module.fail_json(msg=f"{wanted['backend']}/{wanted['server']} is not fit to serve: {wrong}.", state=state)
    module.exit_json(changed=False, state=state, seen=seen(row))


if __name__ == "__main__":
    main()
