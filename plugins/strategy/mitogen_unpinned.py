"""Mitogen's linear strategy, on whatever processors the system gives.

Mitogen keeps the first processor for the process that speaks to hosts and pins all others, with whatever they start, to
the rest: on a machine with two of them that is one, and the hosts of a lab that a playbook has started stay there.
"""

from __future__ import annotations

import ansible_mitogen.affinity
import ansible_mitogen.loaders
import ansible_mitogen.strategy

ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()


class StrategyModule(
    ansible_mitogen.strategy.StrategyMixin,
    ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True),
):
    """What Ansible looks for in this file."""
