"""Replaces the internal certificate authority, in three steps; each waits until all hosts have taken the one before.

1. A next authority is made; hosts trust it beside the present one, which continues to sign.
2. The next authority becomes the present one: it signs new certificates for the hosts, which still trust the earlier
   authority.
3. The hosts no longer trust the earlier authority.

The vault shows which step is next, so an interrupted step is repeated by running the task again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ops import pki, remote, secrets
from ops.environment import Environment, Host
from ops.errors import Failure

_AGAIN = "run ./inv secrets.rotate-ca again."


@dataclass(frozen=True)
class RotationStep:
    """One step: what it does, the secrets it writes, and what all hosts must have before it."""

    what: str
    afterwards: str
    new: Mapping[str, Any]
    trusted: tuple[str, ...] = ()
    """Certificates of authorities, PEM, that every service must trust; empty if the hosts are not to be asked."""
    signed_by: str = ""
    """Certificate of the authority that must have signed what every host shows, PEM."""


def next_step(environment: Environment, values: Mapping[str, Any]) -> RotationStep:
    """The step that comes next for an environment with these secrets."""
    present, following = values["vault_pki_ca_certificate"], values["vault_pki_next_ca_certificate"]
    old: list[str] = values["vault_pki_old_ca_certificates"]
    if following:
        return RotationStep(
            "Have the next authority sign the hosts' certificates (step 2 of 3)",
            _AGAIN,
            {
                "vault_pki_ca_key": values["vault_pki_next_ca_key"],
                "vault_pki_ca_certificate": following,
                "vault_pki_next_ca_key": "",
                "vault_pki_next_ca_certificate": "",
                "vault_pki_old_ca_certificates": [*old, present],
            },
            trusted=(present, following, *old),
            signed_by=present,
        )
    if old:
        return RotationStep(
            "Let the hosts no longer trust the earlier authority (step 3 of 3)",
            "nothing, the authority is replaced.",
            {"vault_pki_old_ca_certificates": []},
            trusted=(present, *old),
            signed_by=present,
        )
    new = secrets.generate(environment)
    return RotationStep(
        "Make a next authority, and have it trusted (step 1 of 3)",
        _AGAIN,
        {
            "vault_pki_next_ca_key": new["vault_pki_ca_key"],
            "vault_pki_next_ca_certificate": new["vault_pki_ca_certificate"],
        },
    )


def require_ready(environment: Environment, step: RotationStep) -> None:
    """Raise Failure unless every host has taken the step before this one, with all services that run on it."""
    if not step.trusted:
        return
    hosts = list(environment.hosts.values())
    ask = partial(_ask, environment)
    problems = [
        f"{name}: {problem}."
        for name, said in remote.of_all(hosts, ask).items()
        for problem in missing(said, step.trusted, step.signed_by)
    ]
    if problems:
        raise Failure(
            " ".join(["Not all hosts are ready for this step:", *problems]),
            f"Run: ./inv provision --env={environment.name}",
        )


def _ask(environment: Environment, host: Host) -> Mapping[str, Any]:
    said: Mapping[str, Any] = remote.ask_program(environment, host, "certificates_read")
    return said


def missing(said: Mapping[str, Any], trusted: tuple[str, ...], signed_by: str) -> list[str]:
    """What a host still lacks of a step; `said` is the answer of ops/on_host/certificates_read.py."""
    problems = []
    if any(certificate.strip() not in said["authorities"] for certificate in trusted):
        problems.append("it does not trust all authorities yet")
    if not pki.is_signed_by(said["certificate"], signed_by):
        problems.append("its certificate is not of the present authority")
    if said["unread"]:
        problems.append(f"{', '.join(said['unread'])} did not read the certificates since they changed")
    return problems
