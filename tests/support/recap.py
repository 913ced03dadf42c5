"""What Ansible says at the end of a playbook."""

from __future__ import annotations

import re

_LINE = re.compile(r"^(?P<host>[\w-]+)\s+: (?P<counts>ok=\d+ .*)$", re.MULTILINE)
Recap = dict[str, dict[str, int]]


def recaps(output: str) -> list[Recap]:
    """For each playbook in an output, in order: host -> counts by name (ok, changed, failed, ...)."""
    found = []
    for part in output.split("PLAY RECAP")[1:]:
        lines = {}
        for match in _LINE.finditer(part):
            lines[match["host"]] = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", match["counts"])}
        found.append(lines)
    return found
