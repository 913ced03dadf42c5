"""The tasks `processors.*`: the scripts that process files."""

from __future__ import annotations

from ops import secrets, where
from ops.deployment.processors import change
from ops.release import shipment
from ops.tasks.declare import task

LIMIT = {"limit": "these workers only, comma-separated"}


@task(
    help={
        **LIMIT,
        "ref": "branch, tag or commit whose processors to ship (default: the work tree's commit)",
        "key": "SSH key to sign with (default: what LONGHAUL_SIGNING_KEY names, or the lab's own)",
    }
)
def ship(
    _context: object,
    *,
    env: str = "lab",
    ref: str = "",
    key: str = "",
    limit: str = "",
    reason: str = "",
    yes: bool = False,
) -> None:
    """Ship app/processors to the workers, without a release."""
    environment = where.environment(env)
    if not environment.is_lab:
        secrets.read(environment)  # if the vault cannot be read, fail before anything is built
    made = shipment.build(environment, ref=ref, dirty_allowed=not (environment.is_real or ref), key=key)
    change(environment, made.version, made, limit=limit, reason=reason, yes=yes)


@task(help=LIMIT)
def revert(_context: object, *, env: str = "lab", limit: str = "", reason: str = "", yes: bool = False) -> None:
    """Go back to the processors of the release."""
    change(where.environment(env), "", None, limit=limit, reason=reason, yes=yes)
