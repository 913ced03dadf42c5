"""How to reach an environment: its URL, the certificate authority to trust, and an access token."""

from __future__ import annotations

from dataclasses import dataclass

from ops import secrets
from ops.console import console
from ops.environment import Environment
from ops.paths import CACHE

TOKEN_NAME = "operator"  # noqa: S105 - the name of a token, as ops/secrets.py makes it


@dataclass(frozen=True)
class Access:
    """What a client needs. `ca_file` is a PEM file with the certificates to trust."""

    url: str
    tus_endpoint: str
    ca_file: str
    token: str


def access(environment: Environment) -> Access:
    """Read the URL from the inventory and the rest from the vault. Raises Failure if there is no vault."""
    values = secrets.read(environment)
    url = f"https://{environment.variable('public_name')}"
    name = f"{environment.name}-rehearsal" if environment.is_rehearsal else environment.name
    ca_file = CACHE / "access" / f"{name}-{environment.variable('public_name')}.crt"
    ca_file.parent.mkdir(parents=True, exist_ok=True)
    # Also the next and the earlier authorities: clients that trust all of them do not notice a rotation.
    others = [values["vault_pki_next_ca_certificate"], *values["vault_pki_old_ca_certificates"]]
    trusted = [certificate.strip() for certificate in (values["vault_pki_ca_certificate"], *others) if certificate]
    ca_file.write_text("\n".join(trusted) + "\n")
    token = values["vault_web_access_tokens"][TOKEN_NAME]
    return Access(url, f"{url}/files/", str(ca_file), token)


def explain(found: Access) -> None:
    """Say on the terminal how to reach the environment."""
    console.print(f"URL:          {found.url}")
    console.print(f"log in with:  {found.token}")
    console.print(f"trust:        {found.ca_file} (certificate authority; import it or accept the warning)")
    console.print(f"tus clients:  {found.tus_endpoint} with the header 'Authorization: Bearer <token>'")
