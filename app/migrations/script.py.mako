"""${message}"""

from __future__ import annotations

from typing import Literal

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
# "expand": the running release still works after it. "contract": it takes something away; then also
# needs_head = the revision that a release must ship to live without that.
phase: Literal["expand", "contract"] = "expand"


def upgrade() -> None:
    """Say what changes and why it is safe beside the running release."""
    ${upgrades if upgrades else "op.execute('')"}
