#!/usr/bin/python3
"""Ansible module: waits until systemd units have been up for a while without a restart, or shows why they are not."""

from __future__ import annotations

import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: stays_up
short_description: Prove that systemd units stay up
description:
  - Succeeds when every unit is active and its state has not changed for a while, by a start, a crash or a reload
    (StateChangeTimestampMonotonic of org.freedesktop.systemd1(5)). If all have been up for long, it does not wait.
    If a unit does not stay up, it fails with the last lines of the unit's journal.
  - Never changes anything. In check mode it only succeeds, because the units may not be there yet.
options:
  units:
    description: Names of the units, with their suffixes.
    type: list
    elements: str
    required: true
  seconds:
    description: How long ago the last change of a unit's state must be, in seconds.
    type: float
    default: 2
  timeout:
    description: How long to wait for that, in seconds.
    type: float
    default: 30
author: [The Longhaul authors]
"""

EXAMPLES = r"""
- name: Prove that the service stays up
  stays_up:
    units: [ssh.service]
"""

RETURN = r"""
states:
  description: What systemd said of each unit at the end.
  type: dict
  returned: always
"""

CHANGED = "StateChangeTimestampMonotonic"
"""When the state changed last: microseconds of the clock that time.monotonic() reads, too."""
PROPERTIES = ("ActiveState", "SubState", "Result", "MainPID", "NRestarts", CHANGED)
JOURNAL_LINES = 30


def states(units: list[str]) -> dict[str, dict[str, str]]:
    """The properties of each unit, as systemctl prints them."""
    command = ["systemctl", "show", f"--property={','.join(PROPERTIES)}", "--", *units]
    blocks = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split("\n\n")
    return {
        unit: dict(line.split("=", 1) for line in block.splitlines()) for unit, block in zip(units, blocks, strict=True)
    }


def journal(unit: str) -> str:
    """The last lines that a unit logged."""
    command = ["journalctl", "--no-pager", "--output=short-precise", f"--lines={JOURNAL_LINES}", f"--unit={unit}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def quiet(state: dict[str, str], seconds: float) -> bool:
    """Whether a unit is active, and its state has not changed for `seconds`."""
    return state["ActiveState"] == "active" and time.monotonic() - int(state[CHANGED]) / 1e6 >= seconds


def main() -> None:
    """Wait until all units have been quiet for long enough or the time is over."""
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "required": True},
            "seconds": {"type": "float", "default": 2},
            "timeout": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, states={})
    units, seconds = module.params["units"], module.params["seconds"]
    deadline = time.monotonic() + module.params["timeout"] + seconds
    while True:
        seen = states(units)
        if all(quiet(state, seconds) for state in seen.values()):
            module.exit_json(changed=False, states=seen)
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    down = [unit for unit, state in seen.items() if not quiet(state, seconds)]
    lines = [f"{unit} is {seen[unit]}; its journal:\n{journal(unit)}" for unit in down]
    module.fail_json(msg=f"Does not stay up: {', '.join(down)}.\n" + "\n".join(lines), states=seen)


if __name__ == "__main__":
    main()
