"""Ansible lookup plugin: finds the file of one of our programs that run on hosts (ops/on_host)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

# Ansible loads plugins by path, without the repository in Python's path.
sys.path.append(str(Path(__file__).resolve().parents[2]))
from ops.on_host import path_of

DOCUMENTATION = """
name: on_host
short_description: The file of a program that runs on hosts
description:
  - Each program is a file of C(ops/on_host); its docstring says what it takes and what it prints.
options:
  _terms:
    description: The names of programs, without C(.py).
    required: true
"""

EXAMPLES = """
- name: Copy the installer
  ansible.builtin.copy:
    src: "{{ lookup('on_host', 'install_release') }}"
    dest: /opt/longhaul/install-release
    mode: "0755"
"""

RETURN = """
_raw:
  description: The path of each file.
  type: list
  elements: path
"""


class LookupModule(LookupBase):  # type: ignore[misc]  # ansible-core has no types
    """The file of each program that is named."""

    def run(self, terms: Sequence[str], variables: Any = None, **kwargs: Any) -> list[str]:  # noqa: ARG002 - as LookupBase says
        """Paths, in the order of the names. Raises AnsibleError for an unknown name."""
        try:
            return [str(path_of(name)) for name in terms]
        except ValueError as error:
            raise AnsibleError(str(error)) from error
