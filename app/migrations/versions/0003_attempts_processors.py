"""Which processors made an attempt: they are shipped without a release of the application too."""

from __future__ import annotations

from typing import Literal

from alembic import op

revision = "0003"
down_revision = "0002"
phase: Literal["expand", "contract"] = "expand"


def upgrade() -> None:
    """Add the column; attempts of releases that do not know it have none."""
    op.execute("alter table attempts add column processors text")
    op.execute(
        "comment on column attempts.processors is"
        " 'Version of the processors that made the results: of the release, or of what was shipped to it.'"
    )
