"""Small texts that all operators of an environment share: keys in its etcd, reached by SSH through a database host.

Why etcd: it is there already, it decides by majority, and with a lease it forgets a lock whose holder has died (see
etcd's API guide).
"""

from __future__ import annotations

import base64
import json
import shlex
from typing import Any

from ops import remote
from ops.environment import Environment
from ops.errors import Exit, Failure

PREFIX = "/longhaul/"
ANSWER_SECONDS = 15
NEVER_RAN = "no etcd has ever run here"
# A host that was ever a member of etcd has its data. If find fails, nothing is printed, which does not mean "never".
_NEVER_RAN = f"""
if [ -d /var/lib/etcd ]; then member=$(find /var/lib/etcd -name member -print -quit) || exit; fi
[ -n "$member" ] || echo {NEVER_RAN}
"""


class NotThereYet(Failure):
    """etcd has never run on any database host of the environment: it was not provisioned yet."""


class Store:
    """Keys below PREFIX. Every method raises Failure (Exit.UNAVAILABLE) if no majority of etcd answers."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        # Each data centre has its own etcd; operators share that of the first one.
        here = environment.first_datacentre
        self._hosts = [host for host in environment.group("database") if host.datacentre == here]

    def get(self, key: str) -> str | None:
        """The text of a key, or None."""
        return _texts(self._etcdctl("get", PREFIX + key)).get(key)

    def list(self, folder: str) -> dict[str, str]:
        """Key -> text of all keys that begin with `folder`, sorted by key."""
        return _texts(self._etcdctl("get", "--prefix", PREFIX + folder))

    def put(self, key: str, text: str, *, lease: str = "0") -> None:
        """Write a key; with a lease, the key ends with the lease."""
        self._etcdctl("put", f"--lease={lease}", PREFIX + key, stdin=text)

    def create(self, key: str, word: str, *, lease: str) -> bool:
        """Write a key that ends with the lease, unless it exists (then False). `word` has no blanks or quotes."""
        name = PREFIX + key
        transaction = f'create("{name}") = "0"\n\nput --lease={lease} {name} {word}\n\n\n'
        return bool(self._etcdctl("txn", stdin=transaction).get("succeeded", False))

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        self._etcdctl("del", PREFIX + key)

    def grant(self, seconds: int) -> str:
        """A new lease; it and its keys end after `seconds` without `renew`."""
        return f"{self._etcdctl('lease', 'grant', str(seconds))['ID']:x}"

    def renew(self, lease: str) -> bool:
        """Restart the lease's time; False if the lease has ended."""
        return int(self._etcdctl("lease", "keep-alive", "--once", lease).get("TTL", 0)) > 0

    def seconds_left(self, lease: str) -> int:
        """In how many seconds the lease ends unless it is renewed."""
        return max(0, int(self._etcdctl("lease", "timetolive", lease).get("ttl", 0)))

    def revoke(self, lease: str) -> None:
        """End the lease and its keys, if it is there."""
        self._etcdctl("lease", "revoke", lease, missing_is_fine=True)

    def _etcdctl(self, *arguments: str, stdin: str = "", missing_is_fine: bool = False) -> dict[str, Any]:
        """What etcdctl answers, asked on the first database host that can tell."""
        command = shlex.join(["sudo", "-n", "/usr/local/sbin/longhaul-etcdctl", "--write-out=json", *arguments])
        never_ran = shlex.join(["sudo", "-n", "sh", "-c", _NEVER_RAN])
        command = f"{command} || {{ code=$?; {never_ran} >&2; exit $code; }}"
        reasons: list[str] = []
        never = 0
        for host in self._hosts:
            try:
                answer = remote.run(self._environment, host, command, stdin=stdin, seconds=ANSWER_SECONDS)
            except remote.NoAnswer as silent:
                reasons.append(f"{host.name}: {silent.reason}")
                continue
            if answer.return_code == 0:
                return _json(answer.stdout)
            said = answer.stderr.strip()
            if missing_is_fine and "requested lease not found" in said:
                return {}
            if "lease not found" in said:
                return {"TTL": 0}
            never += NEVER_RAN in said.splitlines()
            reasons.append(f"{host.name}: {said[-200:]}")
        name = self._environment.name
        if self._hosts and never == len(self._hosts):
            raise NotThereYet(f"The environment '{name}' has no etcd yet.", f"Run: ./inv provision --env={name}")
        raise Failure(
            f"etcd of '{name}' does not answer: {'; '.join(reasons)}",
            f"See ./inv status. To change the environment in spite of it: ./inv provision --env={name} --without-lock. "
            "Deploy and rollback have this option too. It works without the lock: make sure that you are alone.",
            Exit.UNAVAILABLE,
        )


def _json(text: str) -> dict[str, Any]:
    """The last JSON object of an answer: some commands and versions of etcdctl print plain lines before it."""
    for line in reversed(text.strip().splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    return {}


def _texts(answer: dict[str, Any]) -> dict[str, str]:
    def text(value: str) -> str:
        return base64.b64decode(value).decode()

    return {text(entry["key"]).removeprefix(PREFIX): text(entry.get("value", "")) for entry in answer.get("kvs", [])}
