"""Tells the state of a host: its services, its release, and how it sees other hosts. Runs as root.

Takes the host's own name, its groups and its units (each separated by commas), and the ports of Patroni and of the
storage. Prints JSON, as `main` builds it.
"""

from __future__ import annotations

import csv
import json
import socket
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

PKI = "/etc/longhaul/pki"
CURRENT = Path("/opt/longhaul/current")
SHIPPED = CURRENT / "shipped"
"""Processors that were shipped to this release, without a new release."""
DRAIN = Path("/var/lib/longhaul/drain")
TIMEOUT_SECONDS = 5


def units(names: list[str]) -> dict[str, str]:
    """ActiveState of each unit; `not-found` for one that is not installed."""
    found = {}
    for name in names:
        command = ["systemctl", "show", "--property=ActiveState,LoadState", name]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        values = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        absent = values.get("LoadState") == "not-found"
        found[name] = "not-found" if absent else values.get("ActiveState", "unknown")
    return found


def drained() -> str:
    """Why the host is drained, "" if it is not."""
    return (DRAIN.read_text().strip() or "nobody says why") if DRAIN.exists() else ""


def addresses() -> list[str]:
    """All IPv4 addresses of the host."""
    said = subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, text=True, check=True).stdout
    return [entry["local"] for link in json.loads(said) for entry in link.get("addr_info", [])]


def balanced() -> dict[str, str]:
    """State of each web host in this load balancer's eyes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect("/run/haproxy/admin.sock")
        connection.sendall(b"show stat\n")
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    return {row["svname"]: row["status"] for row in rows if row["pxname"] == "web" and row["svname"] not in {"BACKEND"}}


def answer(url: str) -> str:
    """Body of a GET with this host's certificate."""
    context = ssl.create_default_context(cafile=f"{PKI}/ca.crt")
    context.load_cert_chain(f"{PKI}/host.crt", f"{PKI}/host.key")
    handler = urllib.request.HTTPSHandler(context=context)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
    with opener.open(url, timeout=TIMEOUT_SECONDS) as reply:
        return str(reply.read().decode())


def members(name: str, port: str) -> dict[str, str]:
    """Role and state of each database host in Patroni's eyes."""
    cluster = json.loads(answer(f"https://{name}:{port}/cluster"))
    return {member["name"]: f"{member['role']} {member['state']}" for member in cluster["members"]}


def main() -> None:
    """Print the state of this host."""
    name, groups, wanted, patroni_port, storage_port = sys.argv[1:]
    state: dict[str, object] = {
        "units": units([unit for unit in wanted.split(",") if unit]),
        "release": CURRENT.readlink().name if CURRENT.is_symlink() else "",
        "processors": SHIPPED.resolve().parent.name if SHIPPED.exists() else "",
        "drained": drained(),
        "addresses": addresses(),
    }
    questions = {
        "loadbalancers": ("balanced", balanced),
        "database": ("members", lambda: members(name, patroni_port)),
        "storage": ("storage", lambda: answer(f"https://{name}:{storage_port}/healthcheck").strip()),
    }
    for group, (key, ask) in questions.items():
        if group in groups.split(","):
            try:
                state[key] = ask()
            except OSError as error:
                state[key] = f"no answer: {error}"
    sys.stdout.write(json.dumps(state) + "\n")


if __name__ == "__main__":
    main()
