"""Mitogen's linear strategy, on whatever processors the system gives and with an interpreter wherever it is.

Mitogen keeps the first processor for the process that speaks to hosts and pins all others, with whatever they start, to
the rest: on a machine with two of them that is one, and the hosts of a lab that a playbook has started stay there.

Mitogen splits the path of a Python at its blanks and quotes, as a shell does. Ansible takes it as one path, and gives
localhost the Python that it runs with itself: that of the checkout, wherever that is.
"""

from __future__ import annotations

import shlex
from typing import Any

import ansible_mitogen.affinity
import ansible_mitogen.loaders
import ansible_mitogen.strategy
import ansible_mitogen.transport_config

_split = ansible_mitogen.transport_config.parse_python_path


def _one_path(path: str | None, **options: Any) -> list[str]:
    return _split(shlex.quote(path) if path else path, **options)


ansible_mitogen.transport_config.parse_python_path = _one_path
ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()


class StrategyModule(
    ansible_mitogen.strategy.StrategyMixin,
    ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True),
):
    """What Ansible looks for in this file."""
