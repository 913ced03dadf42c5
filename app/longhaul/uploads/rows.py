"""Rows of the table `uploads`: read, locked and changed on the connection of a transaction at hand."""

from __future__ import annotations

from longhaul.database import Connection
from longhaul.uploads.model import Gone, NotFound, Upload


async def locked(connection: Connection, upload_id: str, key: str | None) -> Upload:
    """The row, locked against all other decisions. Raises NotFound, Gone."""
    upload = await one(connection, "select * from uploads where id = %s for update", upload_id)
    if upload is None or key not in (None, upload.key):
        raise NotFound("there is no such upload: check the URL, or create a new upload")
    if upload.state.gone:
        raise Gone(f"this upload was {upload.state}: create a new one")
    return upload


async def changed(connection: Connection, upload_id: str, **values: object) -> Upload:
    """The row, which is locked, with these columns changed."""
    change = ", ".join(f"{column} = %({column})s" for column in values)
    query = f"update uploads set {change} where id = %(id)s returning *"  # noqa: S608  # columns are named in this file
    upload = await one(connection, query, id=upload_id, **values)
    assert upload is not None, "the row is locked"
    return upload


async def one(connection: Connection, query: str, *values: object, **named: object) -> Upload | None:
    """The first row of a query, or None."""
    cursor = await connection.execute(query.encode(), named or values)
    row = await cursor.fetchone()
    return None if row is None else Upload.from_row(row)


async def several(connection: Connection, query: str, *values: object) -> list[Upload]:
    """All rows of a query."""
    cursor = await connection.execute(query.encode(), values)
    return [Upload.from_row(row) for row in await cursor.fetchall()]
