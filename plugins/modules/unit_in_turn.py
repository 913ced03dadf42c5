#!/usr/bin/python3
"""Ansible module: restarts or reloads units on one of several hosts, only while all hosts serve."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: unit_in_turn
short_description: Restart or reload units on one host while the others serve
description:
  - For a throttled handler. Such a handler runs on one host after another, and does not stop if one of them fails. So
    this module first asks whether every host serves, and fails if one does not. After the change it waits until all
    hosts have served for a while.
  - If the change cannot be done, systemd remembers it in the unit's property V(Markers), until the unit is restarted or
    reloaded. A task that reads this property can notify the handler again in the next run.
options:
  units:
    description: Units, with their suffixes.
    type: list
    elements: str
    required: true
  state:
    description: What to do.
    choices: [restarted, reloaded]
    required: true
  urls:
    description:
      - URLs that answer if all hosts serve, asked with this host's certificate. Any status below 500 is good.
    type: list
    elements: str
    required: true
  seconds:
    description: How long the URLs must answer afterwards, in seconds. Faults of a reload show only after a while.
    type: float
    default: 2
  timeout:
    description: How long it may take until the URLs answer again, in seconds.
    type: float
    default: 30
  pki:
    description: Directory of ca.crt, host.crt and host.key.
    type: path
    default: /etc/longhaul/pki
author: [The Longhaul authors]
"""

EXAMPLES = r"""
- name: Restart etcd
  unit_in_turn:
    units: [etcd.service]
    state: restarted
    urls: ["https://data1:2379/health", "https://data2:2379/health", "https://data3:2379/health"]
  throttle: 1
"""

ANSWER_SECONDS = 5
# Before the change: a host that does not answer for longer is down, and not just coming back from its own change.
PATIENCE_SECONDS = 10
PAUSE_SECONDS = 0.2
COMMANDS = {"restarted": "restart", "reloaded": "reload"}


def with_certificate(pki: str) -> urllib.request.OpenerDirector:
    """An opener with this host's certificate, and without a proxy, which might answer in the place of a host."""
    tls = ssl.create_default_context(cafile=f"{pki}/ca.crt")
    tls.load_cert_chain(f"{pki}/host.crt", f"{pki}/host.key")
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))


class Places:
    """URLs that answer when all hosts serve."""

    def __init__(self, urls: list[str], opener: urllib.request.OpenerDirector) -> None:
        self.urls, self._opener = urls, opener

    def wrong(self) -> list[str]:
        """The URLs that do not answer, and why."""
        return [f"{url}: {why}" for url in self.urls if (why := self._wrong(url))]

    def _wrong(self, url: str) -> str:
        try:
            with self._opener.open(url, timeout=ANSWER_SECONDS):
                return ""
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(200).decode(errors="replace").strip()
            return f"{error.code} {text}".strip() if error.code >= 500 else ""
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__

    def wait(self, seconds: float, timeout: float) -> list[str]:
        """Wait until all URLs have answered for `seconds`; returns what is still wrong after `timeout`, or []."""
        deadline = time.monotonic() + timeout + seconds
        well_since = time.monotonic()
        while True:
            if wrong := self.wrong():
                well_since = time.monotonic()
                if well_since > deadline:
                    return wrong
            elif time.monotonic() - well_since >= seconds:
                return []
            time.sleep(PAUSE_SECONDS)


def main() -> None:
    """Check that all hosts serve, make the change, check again."""
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "required": True},
            "state": {"choices": list(COMMANDS), "required": True},
            "urls": {"type": "list", "elements": "str", "required": True},
            "seconds": {"type": "float", "default": 2},
            "timeout": {"type": "float", "default": 30},
            "pki": {"type": "path", "default": "/etc/longhaul/pki"},
        },
        supports_check_mode=True,
    )
    if not module.check_mode:
        change(module, Places(module.params["urls"], with_certificate(module.params["pki"])))
    module.exit_json(changed=True)


def change(module: AnsibleModule, places: Places) -> None:
    """Restart or reload the units; fails the module if a host did not serve before it, or does not afterwards."""
    units = module.params["units"]
    verb = COMMANDS[module.params["state"]]
    # First: systemd removes the mark after the change, so the mark stays if this run stops before.
    for unit in units:
        module.run_command(["systemctl", "set-property", "--runtime", unit, f"Markers=+needs-{verb}"], check_rc=True)
    if wrong := places.wait(0, PATIENCE_SECONDS):
        module.fail_json(
            msg=f"No {verb} of {', '.join(units)} here while another host does not serve: {'; '.join(wrong)}. "
            "Repair that host (`systemctl --failed` and `journalctl` there), and run this again: the new settings are "
            f"written and wait for a {verb}."
        )
    code, _, error = module.run_command(["systemctl", verb, *units])
    if code != 0:
        module.fail_json(msg=f"systemctl {verb} {' '.join(units)}: {error.strip()}{journal(module, units)}")
    if wrong := places.wait(module.params["seconds"], module.params["timeout"]):
        module.fail_json(
            msg=f"After the {verb} of {', '.join(units)} here, not all hosts serve: {'; '.join(wrong)}. No other host "
            f"was changed after this one.{journal(module, units)}"
        )


def journal(module: AnsibleModule, units: list[str]) -> str:
    """The last lines that the units logged."""
    chosen: list[Any] = [f"--unit={unit}" for unit in units]
    return "\n" + module.run_command(["journalctl", "--no-pager", "--output=cat", "--lines=20", *chosen])[1]


if __name__ == "__main__":
    main()
