"""What the sender says that the whole file is: compared before an upload is done."""

from __future__ import annotations

from typing import Literal

from alembic import op

revision = "0004"
down_revision = "0003"
phase: Literal["expand", "contract"] = "expand"


def upgrade() -> None:
    """Add the column, and let the database itself refuse a result of something else than what was sent.

    The constraint also holds workers of releases that do not know the column: such an attempt fails, and processing the
    file again on a worker of this release gives the right verdict. It is not checked against the existing rows, which
    would lock the table while they are read: none of them has a value.
    """
    op.execute("alter table uploads add column expected_sha256 text")
    op.execute(
        "alter table uploads add constraint uploads_done_as_expected check"
        " (state <> 'done' or expected_sha256 is null or sha256 is not distinct from expected_sha256) not valid"
    )
    op.execute(
        "comment on column uploads.expected_sha256 is"
        " 'Of the whole content, in hexadecimal, as the sender says; null if it did not. Never changed once set.'"
    )
