#!/usr/bin/python3
"""Ansible module: sets the configuration that a Patroni cluster keeps in etcd, and restarts members that need it."""

from __future__ import annotations

import json
import ssl
import time
from base64 import b64encode
from collections.abc import Callable
from http.client import HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: patroni_cluster
short_description: Set the configuration of a Patroni cluster
description:
  - Waits until the cluster has a leader and the given members run. Then makes the configuration in etcd equal to
    O(config), if it differs. Keys in O(keep) belong to other procedures and are not changed.
  - Some parameters are in force only after a restart. Unless O(restart_pending) is set, the module only warns about
    members that wait for one. With it, these members are restarted one at a time, each only while all others follow the
    leader and could take its place. Replicas come first; a waiting leader hands over in a planned switchover before.
  - PostgreSQL accepts some parameters (max_connections and others) on a replica only if they are not smaller than on
    the leader. If replicas still wait for that reason after their restart, the leader is restarted without a
    switchover, and then the replicas again.
  - In check mode nothing is changed, and a cluster that does not exist yet counts as a change.
options:
  url:
    description: Patroni's interface on this member.
    type: str
    required: true
  password:
    description: Password of the interface's user V(patroni).
    type: str
    required: true
  config:
    description: The wanted configuration.
    type: dict
    required: true
  keep:
    description: Keys of the first level that are not changed.
    type: list
    elements: str
    default: [pause, standby_cluster]
  members:
    description: Members that must run.
    type: list
    elements: str
    required: true
  restart_pending:
    description: Restart members that wait for a restart.
    type: bool
    default: false
  timeout:
    description: Longest wait for each state of the cluster, in seconds.
    type: int
    default: 180
  pki:
    description: Directory of ca.crt, host.crt and host.key.
    type: path
    default: /etc/longhaul/pki
author: [The Longhaul authors]
"""

EXAMPLES = r"""
- name: Set the cluster's configuration
  patroni_cluster:
    url: https://data1:8008
    password: "{{ postgresql_rest_password }}"
    config: {ttl: 20, loop_wait: 5, retry_timeout: 5}
    members: [data1, data2, data3]
"""

RETURN = r"""
leader:
  description: Name of the leader at the end.
  type: str
  returned: when the cluster answers
restarted:
  description: Members that were restarted, in order.
  type: list
  elements: str
  returned: when the cluster answers
"""

LEADERS = ("leader", "standby_leader")
CANDIDATES = ("sync_standby", "quorum_standby")
RUNNING = ("running", "streaming")
# Time limit of one answer: Patroni answers a restart or a switchover only when it is done.
ANSWER_SECONDS = 120


class RefusedError(Exception):
    """Patroni refused a request."""


class Interface:
    """Patroni's REST interface, with this host's certificate."""

    def __init__(self, url: str, password: str, pki: str) -> None:
        self.url = url
        self._authorization = "Basic " + b64encode(f"patroni:{password}".encode()).decode()
        self._tls = ssl.create_default_context(cafile=f"{pki}/ca.crt")
        self._tls.load_cert_chain(f"{pki}/host.crt", f"{pki}/host.key")

    def ask(self, path: str, method: str = "GET", body: Any = None, url: str | None = None) -> Any:
        """The answer's JSON, or its text. Raises OSError without an answer and RefusedError for a refusal."""
        place = urlsplit(url or self.url).netloc
        connection = HTTPSConnection(place, timeout=ANSWER_SECONDS, context=self._tls)
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        except HTTPException as error:
            raise OSError(f"{place} broke off its answer to {method} {path}") from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise RefusedError(f"Patroni on {place} refused {method} {path}: {answer.status} {text}")
        try:
            return json.loads(text)
        except ValueError:
            return text

    def members(self) -> dict[str, dict[str, Any]]:
        """State of each member by name."""
        return {member["name"]: member for member in self.ask("/cluster")["members"]}


def leader_of(members: dict[str, dict[str, Any]]) -> str | None:
    """Name of the running leader."""
    names = [name for name, member in members.items() if member["role"] in LEADERS and member["state"] in RUNNING]
    return names[0] if names else None


def settled(members: dict[str, dict[str, Any]], expected: list[str]) -> bool:
    """Whether there is a leader and every expected member follows it or is it."""
    return leader_of(members) is not None and all(
        name in members and members[name]["state"] == ("running" if members[name]["role"] in LEADERS else "streaming")
        for name in expected
    )


class Cluster:
    """The cluster as this module sees and changes it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.parameters = module.params
        self.interface = Interface(module.params["url"], module.params["password"], module.params["pki"])

    def wait(self, what: str, reached: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
        """The members, as soon as `reached` is true for them; fails the module if that takes too long."""
        deadline = time.monotonic() + self.parameters["timeout"]
        last: object = "no answer"
        while time.monotonic() < deadline:
            try:
                members = self.interface.members()
            except (OSError, RefusedError) as error:
                last = error
            else:
                if reached(members):
                    return members
                last = members
            time.sleep(1)
        self.module.fail_json(
            msg=f"Patroni did not reach this in {self.parameters['timeout']} s: {what}. Last seen: {last}. "
            "See `patronictl -c /etc/patroni/config.yml list` and `journalctl -u patroni` on the members."
        )
        raise AssertionError  # fail_json ends the program

    def wait_settled(self) -> dict[str, dict[str, Any]]:
        """The members, as soon as all expected ones run and follow a leader."""
        expected = self.parameters["members"]
        return self.wait(f"a leader, and {', '.join(expected)} running", lambda seen: settled(seen, expected))

    def wait_redundant(self) -> dict[str, dict[str, Any]]:
        """The members, as soon as any of them may stop: all run, and each standby could lead without a loss."""
        expected = self.parameters["members"]
        synchronous = str(self.parameters["config"].get("synchronous_mode", "off")).lower() not in ("off", "false")

        def redundant(seen: dict[str, dict[str, Any]]) -> bool:
            leads = any(member["role"] == "leader" for member in seen.values())
            return settled(seen, expected) and (
                not (synchronous and leads)
                or all(member["role"] in (*LEADERS, *CANDIDATES) for member in seen.values())
            )

        return self.wait(f"a leader, and {', '.join(expected)} running and fit to lead", redundant)

    def restart_waiting(self) -> list[str]:
        """Restart all members that wait for a restart, replicas first; returns their names in order."""
        done: list[str] = []
        held_back: set[str] = set()
        while True:
            members = self.wait_redundant()
            leader = leader_of(members)
            waiting = sorted(name for name in members if members[name].get("pending_restart"))
            standbys = [name for name in waiting if name != leader and name not in held_back]
            if standbys:
                done.append(standbys[0])
                if not self.restart(standbys[0]):
                    held_back.add(standbys[0])
            elif leader in waiting and leader not in done:
                done.append(leader)
                if len(members) > 1 and members[leader]["role"] == "leader" and not held_back:
                    # The former leader restarts to become a replica; often no other restart is needed then.
                    members = self.hand_over(leader)
                if members[leader].get("pending_restart"):
                    self.restart(leader)
                held_back = set()
            elif waiting:
                self.module.fail_json(
                    msg=f"After restarts of {', '.join(done)}, these members still need one: {', '.join(waiting)}. "
                    "`patronictl -c /etc/patroni/config.yml list` says for which parameter."
                )
            else:
                return done

    def restart(self, name: str) -> bool:
        """Restart a member while all others run; returns whether it needs no further restart."""
        url = self.wait_redundant()[name]["api_url"].removesuffix("/patroni")
        # If a leader takes longer, Patroni fails over to another member. The cluster's own limit is 0 seconds.
        self.interface.ask("/restart", "POST", {"timeout": self.parameters["timeout"]}, url)
        deadline = time.monotonic() + 2 * self.parameters["config"].get("loop_wait", 0) + 1
        while (waits := self.wait_redundant()[name].get("pending_restart")) and time.monotonic() < deadline:
            time.sleep(1)
        return not waits

    def hand_over(self, leader: str) -> dict[str, dict[str, Any]]:
        """Make another member the leader, without losing anything; returns the members when all are back."""
        self.wait_redundant()
        self.interface.ask("/switchover", "POST", {"leader": leader})
        self.wait(f"a leader other than {leader}", lambda seen: leader_of(seen) not in (None, leader))
        return self.wait_redundant()


def main() -> None:
    """Set the configuration and do the restarts that are allowed."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "config": {"type": "dict", "required": True},
            "keep": {"type": "list", "elements": "str", "default": ["pause", "standby_cluster"], "no_log": False},
            "members": {"type": "list", "elements": "str", "required": True},
            "restart_pending": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 180},
            "pki": {"type": "path", "default": "/etc/longhaul/pki"},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        try:
            Interface(module.params["url"], module.params["password"], module.params["pki"]).members()
        except (OSError, RefusedError):
            module.exit_json(changed=True)
    try:
        run(module)
    except (OSError, RefusedError) as error:
        module.fail_json(msg=str(error))


def run(module: AnsibleModule) -> None:
    """Compare the configuration, set it, and restart members that need it."""
    cluster = Cluster(module)
    members = cluster.wait_settled()
    present = cluster.interface.ask("/config")
    kept = {key: present[key] for key in module.params["keep"] if key in present}
    wanted = {**module.params["config"], **kept}
    changed = present != wanted
    if changed and not module.check_mode:
        cluster.interface.ask("/config", "PUT", wanted)
        # Members read the configuration in their next loop, and report in the one after whether they need a restart.
        time.sleep(2 * wanted["loop_wait"] + 1)
        members = cluster.wait_settled()
    waiting = sorted(name for name, member in members.items() if member.get("pending_restart"))
    restarted: list[str] = []
    if waiting and module.params["restart_pending"] and not module.check_mode:
        restarted = cluster.restart_waiting()
    elif waiting:
        module.warn(
            f"Parameters that need a restart are not in force yet on {', '.join(waiting)}: "
            "./inv provision --restart-database"
        )
    module.exit_json(
        changed=changed or bool(waiting and module.params["restart_pending"]),
        diff={
            "before": json.dumps(present, indent=2, sort_keys=True) + "\n",
            "after": json.dumps(wanted, indent=2, sort_keys=True) + "\n",
        },
        leader=leader_of(members),
        restarted=restarted,
    )


if __name__ == "__main__":
    main()
