#!/usr/bin/python3
"""Ansible module: builds the rings of an OpenStack Swift cluster once, and installs the same ones on every host."""

from __future__ import annotations

import os
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: swift_rings
short_description: Read, build and install Swift's rings
description:
  - A ring says on which devices each object is. It is changed in small steps, from the builder file that made it. So
    every storage host keeps the builder files, and the newest of them is changed.
  - V(read) reports the builder files of this host. V(built) takes the reports of all hosts that answered, adds and
    removes devices as the inventory says, and returns the files; it writes nothing. V(installed) writes those that
    differ.
  - If a host of O(members) did not report, its devices stay in the ring. A host whose address changes keeps its
    partitions. If a host left O(members), its devices are removed, and Swift copies their objects to others.
  - Equal inputs give equal rings. A partition may move once an hour only, so a ring may need later runs until it is
    balanced.
options:
  state:
    description: What to do.
    choices: [read, built, installed]
    required: true
  directory:
    description: Directory of the files.
    type: path
    default: /etc/swift
  host:
    description: "With V(read): this host's V(name), V(address) and V(devices)."
    type: dict
  hosts:
    description: "With V(built): what V(read) returned on each host."
    type: list
    elements: dict
  members:
    description: "With V(built): names of all storage hosts."
    type: list
    elements: str
  part_power:
    description: "With V(built): a new ring gets 2 to this power partitions; it cannot be changed later."
    type: int
  ports:
    description: "With V(built): where the servers of each ring listen, by ring: V(object), V(container), V(account)."
    type: dict
  files:
    description: "With V(installed): contents in base64, by file name."
    type: dict
author: [The Longhaul authors]
"""

EXAMPLES = r"""
- name: Read the rings
  swift_rings:
    state: read
    host: {name: data1, address: 192.0.2.41, devices: [{name: d1, weight: 100}]}
"""

RETURN = r"""
host:
  description: O(host), and its builder files in base64 as V(builders), by ring.
  type: dict
  returned: with V(read)
files:
  description: Contents of all files in base64, by name.
  type: dict
  returned: with V(built)
done:
  description: What changes, in words.
  type: list
  elements: str
  returned: with V(built)
"""

RINGS = ("object", "container", "account")
REPLICAS = 3
# Between two moves of a partition Swift's replicators need time to copy it.
MIN_PART_HOURS = 1
# In percent: a ring is balanced again if a device differs more than this from its fair share.
BALANCE = 5
SEED = "longhaul"
# The weight of a device that names none.
WEIGHT = 100


def read(directory: Path, host: dict[str, Any]) -> dict[str, Any]:
    """This host with its builder files."""
    builders = {}
    for ring in RINGS:
        path = directory / f"{ring}.builder"
        if path.is_file():
            builders[ring] = b64encode(path.read_bytes()).decode()
    return {**host, "builders": builders}


def load(content: bytes, workspace: Path) -> Any:
    """A builder from the content of its file."""
    from swift.common.ring import RingBuilder  # type: ignore[import-not-found]

    path = workspace / "loaded.builder"
    path.write_bytes(content)
    return RingBuilder.load(str(path))


def newest(ring: str, hosts: list[dict[str, Any]], part_power: int, workspace: Path) -> tuple[Any, bytes]:
    """The newest builder of a ring among the hosts and its file's content; a new builder if there is none."""
    from swift.common.ring import RingBuilder

    contents = sorted({b64decode(host["builders"][ring]) for host in hosts if ring in host["builders"]})
    if not contents:
        return RingBuilder(part_power, REPLICAS, MIN_PART_HOURS), b""
    pairs = [(load(content, workspace), content) for content in contents]
    return max(pairs, key=lambda pair: pair[0].version)


def adjust(builder: Any, port: int, hosts: list[dict[str, Any]], members: list[str]) -> list[str]:
    """Add, change and remove devices; returns what was done."""
    done = []
    reported = {host["name"]: host for host in hosts}
    # `meta` has the name of the device's host, which never changes, unlike its address.
    present = {(device["meta"], device["device"]): device for device in builder.devs if device is not None}
    wanted = {
        (host["name"], device["name"]): float(device.get("weight", WEIGHT))
        for host in hosts
        for device in host["devices"]
    }
    zones = {device["meta"]: device["zone"] for device in present.values()}
    for host, name in sorted(set(wanted) - set(present)):
        # Each host is a zone of its own: no two replicas of an object share one.
        zone = zones.setdefault(host, max(zones.values(), default=0) + 1)
        address = reported[host]["address"]
        builder.add_dev(
            {
                "region": 1,
                "zone": zone,
                "ip": address,
                "port": port,
                "replication_ip": address,
                "replication_port": port,
                "device": name,
                "weight": wanted[host, name],
                "meta": host,
            }
        )
        done.append(f"add {host}/{name}")
    for (host, name), device in sorted(present.items()):
        if host not in members or (host in reported and (host, name) not in wanted):
            builder.remove_dev(device["id"])
            done.append(f"remove {host}/{name}")
        elif host in reported:
            if device["weight"] != wanted[host, name]:
                builder.set_dev_weight(device["id"], wanted[host, name])
                done.append(f"weight of {host}/{name}")
            if device["ip"] != reported[host]["address"]:
                device["ip"] = device["replication_ip"] = reported[host]["address"]
                builder.version += 1
                done.append(f"address of {host}/{name}")
    return done


def build(module: AnsibleModule, workspace: Path) -> tuple[dict[str, str], list[str]]:
    """Contents of all files, and what changed."""
    files, done = {}, []
    hosts, members = module.params["hosts"], module.params["members"]
    for ring in RINGS:
        builder, content = newest(ring, hosts, module.params["part_power"], workspace)
        actions = adjust(builder, int(module.params["ports"][ring]), hosts, members)
        left = {device["meta"] for device in builder.devs if device is not None and device["weight"] > 0}
        if len(left) < REPLICAS:
            module.fail_json(
                msg=f"The {ring} ring would have devices on {len(left)} hosts ({', '.join(sorted(left)) or 'none'}): "
                f"{REPLICAS} replicas need {REPLICAS}. For a new cluster run on all storage hosts, without --limit; "
                "to replace a host, put the new one into the inventory in the same change."
            )
        drifted = builder.ever_rebalanced and builder.get_balance() > BALANCE and builder.min_part_seconds_left == 0
        if builder.devs_changed or drifted:
            builder.rebalance(seed=SEED)
            builder.validate()
            actions = actions or ["rebalance"]
        if actions or not content:
            path = workspace / f"{ring}.builder"
            builder.save(str(path))
            content = path.read_bytes()
        builder.get_ring().save(f"{ring}.ring.gz")
        files[f"{ring}.builder"] = b64encode(content).decode()
        files[f"{ring}.ring.gz"] = b64encode((workspace / f"{ring}.ring.gz").read_bytes()).decode()
        done += [f"{ring}: {action}" for action in actions]
    return files, done


def install(module: AnsibleModule) -> bool:
    """Write the files that differ, each at once; returns whether there were any."""
    directory, changed = Path(module.params["directory"]), False
    for name, encoded in module.params["files"].items():
        path, content = directory / name, b64decode(encoded)
        if path.is_file() and path.read_bytes() == content:
            continue
        changed = True
        if not module.check_mode:
            with tempfile.NamedTemporaryFile(dir=module.tmpdir, delete=False) as new:
                new.write(content)
            Path(new.name).chmod(0o644)
            module.atomic_move(new.name, str(path))
    return changed


def main() -> None:
    """Do one of the three steps."""
    module = AnsibleModule(
        argument_spec={
            "state": {"choices": ["read", "built", "installed"], "required": True},
            "directory": {"type": "path", "default": "/etc/swift"},
            "host": {"type": "dict"},
            "hosts": {"type": "list", "elements": "dict"},
            "members": {"type": "list", "elements": "str"},
            "part_power": {"type": "int"},
            "ports": {"type": "dict"},
            "files": {"type": "dict"},
        },
        required_if=[
            ("state", "read", ["host"]),
            ("state", "built", ["hosts", "members", "part_power", "ports"]),
            ("state", "installed", ["files"]),
        ],
        supports_check_mode=True,
    )
    if module.params["state"] == "read":
        module.exit_json(changed=False, host=read(Path(module.params["directory"]), module.params["host"]))
    if module.params["state"] == "installed":
        module.exit_json(changed=install(module))
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as workspace:
        # Swift writes a ring through a temporary file in the current directory.
        os.chdir(workspace)
        files, done = build(module, Path(workspace))
        os.chdir("/")
    module.exit_json(changed=bool(done), files=files, done=done)


if __name__ == "__main__":
    main()
