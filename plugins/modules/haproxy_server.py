#!/usr/bin/python3
"""Ansible module: wait until a server is in one of the wanted states in HAProxy's eyes, and watch its answers."""

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
  - With C(watch), then stays and counts what goes wrong with its requests.
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
      - After that, watch the server for so many seconds, and fail if it leaves these states or answers with errors.
      - Errors are answers of 5xx, connections that failed, and answers that ended early or were none.
    type: float
    default: 0
  errors:
    description: Number of errors in that time from which on it fails...
    type: int
    default: 1
  errors_percent:
    description: ...if they are also at least this share of the requests in that time.
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
"""

PAUSE_SECONDS = 0.2
# Columns of `show stat` (HAProxy's management guide, 9.1).
ERRORS = ("hrsp_5xx", "econ", "eresp")
REQUESTS = "stot"


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


def state_of(path: str, backend: str, server: str) -> str:
    """The server's state, or an empty string if HAProxy does not know it. Raises OSError."""
    return row_of(path, backend, server).get("status", "")


def counts(row: dict[str, str]) -> tuple[int, int]:
    """Errors and requests so far."""
    return sum(int(row.get(column) or 0) for column in ERRORS), int(row.get(REQUESTS) or 0)


def watch(wanted: dict[str, Any]) -> str:
    """Watch the server; returns what is wrong with it, "" if nothing. Raises OSError."""
    place = (wanted["socket"], wanted["backend"], wanted["server"])
    errors_before, requests_before = counts(row_of(*place))
    deadline = time.monotonic() + wanted["watch"]
    while time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
        row = row_of(*place)
        if not row.get("status", "").startswith(tuple(wanted["states"])):
            return f"it went to '{row.get('status', 'unknown')}'"
    errors_after, requests_after = counts(row)
    errors, requests = errors_after - errors_before, requests_after - requests_before
    if errors >= wanted["errors"] and errors * 100 >= wanted["errors_percent"] * requests:
        return f"{errors} of {requests} requests ended in errors"
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
            "watch": {"type": "float", "default": 0},
            "errors": {"type": "int", "default": 1},
            "errors_percent": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    if module.check_mode:
        module.exit_json(changed=False, state="")
    deadline = time.monotonic() + wanted["timeout"]
    while True:
        try:
            state = state_of(wanted["socket"], wanted["backend"], wanted["server"])
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
    module.exit_json(changed=False, state=state)


if __name__ == "__main__":
    main()
