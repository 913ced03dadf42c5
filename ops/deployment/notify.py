"""The notification after a deployment: runs the command that the inventory names, with the deployment's record."""

from __future__ import annotations

import subprocess

from ops.console import console
from ops.deployment.record import Record
from ops.environment import Environment

NOTIFY = "deploy_notify"
"""Inventory variable: a command (list of words). It runs on this machine and reads the record as JSON from its standard
input.
"""
NOTIFY_SECONDS = 30


def notify(environment: Environment, record: Record) -> None:
    """Run the command of the inventory, if there is one. A notification that fails is shown and stops nothing."""
    command = environment.hosts[next(iter(environment.hosts))].variables.get(NOTIFY, [])
    if not command:
        return
    try:
        subprocess.run(command, input=record.text, text=True, check=True, timeout=NOTIFY_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        console.print(f"{NOTIFY} failed: {error}", markup=False)
