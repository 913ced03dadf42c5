#!/usr/bin/python3
"""Ansible module: the part of `host_certificate` that runs on the host; makes the key and stores the certificate."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_certificate
short_description: A key that never leaves its host, and a certificate for it from the internal authority
description:
  - The key is made on the host. The control side (action plugin of the same name) signs a request for it if the
    certificate is missing, ends soon, has other names or another key, or is from another authority.
  - Certificate and key are replaced together in the file I(combined), if there is one.
options:
  key:
    description: Path of the private key.
    type: path
    required: true
  certificate:
    description: Path of the certificate.
    type: path
    required: true
  combined:
    description: Path of a file that holds certificate and key, as HAProxy reads them.
    type: path
  placeholder:
    description: If I(combined) exists, change nothing, because something else keeps it up to date.
    type: bool
    default: false
  group:
    description: Group that may read the key and I(combined).
    type: str
    default: root
  common_name:
    description: Common name of the certificate (control side).
    type: str
    required: true
  names:
    description: DNS names and IP addresses of the certificate (control side).
    type: list
    elements: str
    required: true
  authority:
    description: Certificate of the authority, PEM (control side).
    type: str
    required: true
  authority_key:
    description: Private key of the authority, PEM (control side; never sent to a host).
    type: str
    required: true
  days:
    description: How long a certificate lasts, in days (control side).
    type: int
    required: true
  renew_days:
    description: A certificate that ends sooner than this many days from now is replaced (control side).
    type: int
    required: true
  renew:
    description: Replace the certificate even if it is good (control side).
    type: bool
    default: false
author: [The Longhaul authors]
"""

EXAMPLES = r"""
- name: Give the host its certificate
  host_certificate:
    key: /etc/longhaul/pki/host.key
    certificate: /etc/longhaul/pki/host.crt
    group: ssl-cert
    common_name: web1
    names: [web1, 198.18.0.21]
    authority: "{{ pki_ca_certificate }}"
    authority_key: "{{ pki_ca_key }}"
    days: 365
    renew_days: 90
"""

RETURN = r"""
reason:
  description: Why the certificate was replaced; empty if it was good.
  type: str
  returned: always
"""


def openssl(*arguments: str) -> str:
    """Run openssl; returns what it printed."""
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=True).stdout


def make_key(path: Path, group: str) -> None:
    """Make a private key at `path`; others cannot read it at any moment."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".key-") as directory:  # mode 0700
        draft = Path(directory) / "key"
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(draft))
        give(draft, group, 0o640)
        draft.replace(path)


def write(path: Path, text: str, group: str, mode: int) -> None:
    """Replace a file in one step."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
    give(Path(draft), group, mode)
    Path(draft).replace(path)


def give(path: Path, group: str, mode: int) -> None:
    """Set owner root, a group and a mode."""
    os.chown(path, pwd.getpwnam("root").pw_uid, grp.getgrnam(group).gr_gid)
    path.chmod(mode)


def misplaced(path: Path, group: str, mode: int) -> bool:
    """Whether a file has another owner, group or mode than it should."""
    found = path.stat()
    return (found.st_uid, found.st_gid, found.st_mode & 0o7777) != (0, grp.getgrnam(group).gr_gid, mode)


def main() -> None:
    """Without `signed`: make the key if needed, return a request and the present certificate. Otherwise: store it."""
    module = AnsibleModule(
        argument_spec={
            "key": {"type": "path", "required": True, "no_log": False},
            "certificate": {"type": "path", "required": True},
            "combined": {"type": "path"},
            "placeholder": {"type": "bool", "default": False},
            "group": {"type": "str", "default": "root"},
            "signed": {"type": "str"},  # from the action plugin: the new certificate, PEM
        },
        supports_check_mode=True,
    )
    parameters = module.params
    key, certificate = Path(parameters["key"]), Path(parameters["certificate"])
    combined = Path(parameters["combined"]) if parameters["combined"] else None
    group = parameters["group"]
    if parameters["signed"]:
        write(certificate, parameters["signed"], "root", 0o644)
        if combined:
            write(combined, parameters["signed"] + key.read_text(), group, 0o640)
        module.exit_json(changed=True)
    if parameters["placeholder"] and combined and combined.exists():
        module.exit_json(changed=False, kept=True)
    if module.check_mode and not key.exists():
        module.exit_json(changed=True, key_missing=True)
    changed = not key.exists()
    if changed:
        make_key(key, group)
    secret = [path for path in (key, combined) if path is not None and path.exists()]
    wrong = [path for path in secret if misplaced(path, group, 0o640)]
    if not module.check_mode:
        for path in wrong:
            give(path, group, 0o640)
    present = certificate.read_text() if certificate.exists() else ""
    if combined and present and (not combined.exists() or combined.read_text() != present + key.read_text()):
        present = ""  # certificate and combined file do not match: sign again
    module.exit_json(
        changed=changed or bool(wrong),
        request=openssl("req", "-new", "-key", str(key), "-subj", "/CN=request"),
        present=present,
    )


if __name__ == "__main__":
    main()
