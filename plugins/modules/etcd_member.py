#!/usr/bin/python3
"""Ansible module: decides how an etcd member without data starts: it founds the cluster, or joins a running one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: etcd_member
short_description: Prepare the first start of an etcd member
description:
  - For a member that has no data yet. Writes ETCD_INITIAL_CLUSTER and ETCD_INITIAL_CLUSTER_STATE into a file that etcd
    reads at its first start.
  - With O(found), no member has data, and all of them found the cluster together.
  - Otherwise the cluster runs without this member, which lost its data or is new. A former member with the same peer
    URL is removed and a new one with a new id is added. (With its old id, an empty member could vote a second time on
    a write that it had confirmed.) etcd refuses both if the cluster would lose its majority.
  - Fails if a member has data but no majority answers, because then nothing is known about the cluster.
options:
  name:
    description: Name of this member.
    type: str
    required: true
  peers:
    description: Peer URL of each member by name, this one included.
    type: dict
    required: true
  environment_file:
    description: File that is written.
    type: path
    required: true
  found:
    description: Whether no member has data.
    type: bool
    required: true
  command:
    description: A program that runs etcdctl with endpoints and certificates.
    type: str
    default: longhaul-etcdctl
author: [The Longhaul authors]
"""

EXAMPLES = r"""
- name: Found the cluster, or join it
  etcd_member:
    name: data1
    peers: {data1: "https://data1:2380", data2: "https://data2:2380", data3: "https://data3:2380"}
    environment_file: /etc/default/etcd-bootstrap
    found: true
"""

RETURN = r"""
state:
  description: What etcd is told, V(new) or V(existing).
  type: str
  returned: success
members:
  description: Peer URL of each member of the cluster that will be, by name.
  type: dict
  returned: success
"""


def environment(state: str, members: dict[str, str]) -> str:
    """The file for systemd; etcd ignores both variables once it has data."""
    cluster = ",".join(f"{name}={url}" for name, url in sorted(members.items()))
    return f"ETCD_INITIAL_CLUSTER_STATE={state}\nETCD_INITIAL_CLUSTER={cluster}\n"


def take_place(module: AnsibleModule, name: str, url: str) -> dict[str, str]:
    """Make `name` a member of the running cluster; returns the peer URLs of all members by name."""
    command = module.params["command"]

    def etcdctl(*arguments: str) -> dict[str, Any]:
        code, output, error = module.run_command([command, "--write-out=json", *arguments])
        if code != 0:
            module.fail_json(
                msg=f"The cluster that {name} must join does not answer `etcdctl {' '.join(arguments)}`: "
                f"{error.strip().splitlines()[-1] if error.strip() else 'no reason given'}. Some member has data, so a "
                "new cluster would be a second one. Start a majority of the members first, and run without --limit."
            )
        return json.loads(output)

    known = etcdctl("member", "list")["members"]
    former = [member for member in known if url in member["peerURLs"]]
    # A member without a name was added but never started: an earlier run was interrupted here, so use its place.
    if any(member.get("name") for member in former) and not module.check_mode:
        for member in former:
            etcdctl("member", "remove", f"{member['ID']:x}")
        former = []
    if not former and not module.check_mode:
        known = etcdctl("member", "add", name, f"--peer-urls={url}")["members"]
    # The cluster does not know the names of members that never started, so take them from the parameters.
    names = {url: name for name, url in module.params["peers"].items()}
    urls = [member["peerURLs"][0] for member in known if url not in member["peerURLs"]]
    named = {member["peerURLs"][0]: member.get("name") for member in known}
    return {**{named[other] or names[other]: other for other in urls}, name: url}


def main() -> None:
    """Decide between founding and joining, and write the file."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "peers": {"type": "dict", "required": True},
            "environment_file": {"type": "path", "required": True},
            "found": {"type": "bool", "required": True},
            "command": {"type": "str", "default": "longhaul-etcdctl"},
        },
        supports_check_mode=True,
    )
    name, peers = module.params["name"], module.params["peers"]
    if module.params["found"]:
        state, members = "new", dict(peers)
    else:
        # On a host that was never configured, etcdctl is missing; a dry run then works without the other members.
        dry = module.check_mode and module.get_bin_path(module.params["command"]) is None
        state, members = "existing", dict(peers) if dry else take_place(module, name, peers[name])
    if not module.check_mode:
        Path(module.params["environment_file"]).write_text(environment(state, members))
    module.exit_json(changed=True, state=state, members=members)


if __name__ == "__main__":
    main()
