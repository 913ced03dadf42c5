"""Which release made an attempt: a deployment proves itself by it, and a wrong result is traced to its code."""

from __future__ import annotations

from typing import Literal

from alembic import op

revision = "0002"
down_revision = "0001"
phase: Literal["expand", "contract"] = "expand"


def upgrade() -> None:
    """Add the column; attempts of releases that do not know it have none."""
    op.execute("alter table attempts add column release text")
    op.execute("comment on column attempts.release is 'Release that the worker ran; null before it was recorded.'")
