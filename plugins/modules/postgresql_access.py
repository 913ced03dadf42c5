#!/usr/bin/python3
"""Ansible module: creates roles with passwords, and databases, on the primary of a PostgreSQL cluster."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from base64 import b64decode, b64encode
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: postgresql_access
short_description: Create roles and databases in PostgreSQL
description:
  - Runs as root on the database's host and does nothing on a standby. A missing role is created with LOGIN. Its
    password is set if the stored secret was made from another one. A missing database is created.
  - Passwords never leave the module. The server, and so its log, only sees SCRAM secrets (RFC 5803).
  - In check mode, a server that is not there yet counts as a change.
options:
  roles:
    description: Roles, each with V(name) and V(password).
    type: list
    elements: dict
    default: []
  databases:
    description: Databases, each with V(name) and V(owner).
    type: list
    elements: dict
    default: []
author: [The Longhaul authors]
"""

EXAMPLES = r"""
- name: Create the role and the database
  postgresql_access:
    roles: [{name: longhaul, password: "{{ postgresql_app_password }}"}]
    databases: [{name: longhaul, owner: longhaul}]
"""

RETURN = r"""
primary:
  description: Whether this server is the primary.
  type: bool
  returned: when the server answers
done:
  description: What was changed, in words.
  type: list
  elements: str
  returned: when the server answers
"""

PSQL = (
    "psql",
    "--no-psqlrc",
    "--quiet",
    "--no-align",
    "--tuples-only",
    "--field-separator=\t",
    "--set=ON_ERROR_STOP=1",
    "--username=postgres",
    "--dbname=postgres",
)
ITERATIONS = 4096
SALT_BYTES = 16
NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")


def scram_secret(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """What PostgreSQL stores for an ASCII password (RFC 5803; SASLprep leaves ASCII as it is)."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def belongs(password: str, secret: str) -> bool:
    """Whether a stored secret was made from the password."""
    match = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([^$]+)\$[^:]+:.+", secret)
    return bool(match) and hmac.compare_digest(scram_secret(password, b64decode(match[2]), int(match[1])), secret)


class Server:
    """PostgreSQL on this host, through its socket."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def run(self, sql: str) -> list[list[str]]:
        """Rows of a query; fails the module when the server refuses."""
        code, output, error = self.module.run_command([*PSQL], data=sql)
        if code != 0:
            if self.module.check_mode:
                self.module.exit_json(changed=True)
            self.module.fail_json(msg=f"PostgreSQL on this host refused: {error.strip()}")
        return [line.split("\t") for line in output.splitlines()]

    def change(self, sql: str) -> None:
        """Run a statement, except in check mode."""
        if not self.module.check_mode:
            self.run(sql)


def set_role(server: Server, role: dict[str, Any], secrets: dict[str, str]) -> str | None:
    """Create a role or set its password; returns what was done."""
    name, password = role["name"], role["password"]
    if name in secrets and belongs(password, secrets[name]):
        return None
    secret = scram_secret(password, os.urandom(SALT_BYTES))
    if name in secrets:
        server.change(f"ALTER ROLE {name} PASSWORD '{secret}';")
        return f"set the password of role {name}"
    server.change(f"CREATE ROLE {name} LOGIN PASSWORD '{secret}';")
    return f"created role {name}"


def main() -> None:
    """Compare with the catalog and change what differs."""
    pair = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "roles": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"name": pair, "password": {**pair, "no_log": True}},
            },
            "databases": {"type": "list", "elements": "dict", "default": [], "options": {"name": pair, "owner": pair}},
        },
        supports_check_mode=True,
    )
    roles, databases = module.params["roles"], module.params["databases"]
    for name in [entry[key] for entry in roles + databases for key in ("name", "owner") if key in entry]:
        if not NAME.match(name):
            module.fail_json(
                msg=f"'{name}' is not a valid name for a role or a database: use small letters, digits and _."
            )
    if not all(role["password"].isascii() for role in roles):
        module.fail_json(msg="A password has characters outside ASCII, which this module cannot prepare (SASLprep).")
    server = Server(module)
    if server.run("SELECT pg_is_in_recovery();") == [["t"]]:
        module.exit_json(changed=False, primary=False, done=[])
    secrets = {row[0]: row[1] for row in server.run("SELECT rolname, coalesce(rolpassword, '') FROM pg_authid;")}
    present = {row[0] for row in server.run("SELECT datname FROM pg_database;")}
    done = [action for role in roles if (action := set_role(server, role, secrets))]
    for database in databases:
        if database["name"] not in present:
            server.change(f"CREATE DATABASE {database['name']} OWNER {database['owner']};")
            done.append(f"created database {database['name']}")
    module.exit_json(changed=bool(done), primary=True, done=done)


if __name__ == "__main__":
    main()
