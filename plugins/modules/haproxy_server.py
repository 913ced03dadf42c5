#!/usr/bin/python3
"""Ansible module: wait until a server is in one of the wanted states in HAProxy's eyes."""

from __future__ import annotations

import csv
import socket
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: haproxy_server
short_description: Wait for the state of a server in HAProxy
description:
  - Asks HAProxy's statistics socket until the server is in one of the wanted states. Never changes anything.
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


def state_of(path: str, backend: str, server: str) -> str:
    """The server's state, or an empty string if HAProxy does not know it. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(b"show stat\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    for row in csv.DictReader(answer.removeprefix("# ").splitlines()):
        if row["pxname"] == backend and row["svname"] == server:
            return row["status"]
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
            module.exit_json(changed=False, state=state)
        if time.monotonic() > deadline:
            module.fail_json(
                msg=f"HAProxy sees {wanted['backend']}/{wanted['server']} as '{state or 'unknown'}' and not as one of "
                f"{', '.join(wanted['states'])} after {wanted['timeout']:g} s.",
                state=state,
            )
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
