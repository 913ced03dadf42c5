"""The published results of an upload: files that a processor made, and which host and release made them.

Which results are published is decided in `processing.records`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from longhaul.database import Connection, Database
from longhaul.uploads.model import Upload


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A file that a processor made, in the store as `object_name`; size in bytes, digests per MiB."""

    id: uuid.UUID
    name: str
    size: int
    sha256: str
    content_type: str
    digests: bytes
    object_name: str

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Result:
        """From a row of the table `results`."""
        return cls(**{name: row[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """The host that made an attempt, its release, and the version of its processors (None: an old attempt, which did
    not record it).
    """

    worker: str
    release: str | None
    processors: str | None


def result_object(upload_id: str, attempt_id: uuid.UUID, result_id: uuid.UUID) -> str:
    """Object name of a result; `parse_result_object` reads it back."""
    return f"results/{upload_id}/{attempt_id.hex}/{result_id.hex}"


def parse_result_object(name: str) -> tuple[str, uuid.UUID, uuid.UUID]:
    """Upload, attempt and result id of an object name. Raises ValueError if it is not a result's."""
    folder, upload_id, attempt, result = name.split("/")
    if folder != "results":
        raise ValueError(f"{name!r} is not a result")
    return upload_id, uuid.UUID(hex=attempt), uuid.UUID(hex=result)


class Results:
    """Results as recorded in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def maker(self, upload: Upload) -> Maker | None:
        """What made the published results; None if there are none."""

        async def work(connection: Connection) -> Maker | None:
            cursor = await connection.execute(
                "select worker, release, processors from attempts where id = %s", (upload.attempt_id,)
            )
            row = await cursor.fetchone()
            return Maker(**row) if row else None

        return None if upload.attempt_id is None else await self._database.transaction(work)

    async def published(self, upload: Upload) -> list[Result]:
        """The published results, by name."""

        async def work(connection: Connection) -> list[Result]:
            cursor = await connection.execute(
                "select * from results where attempt_id = %s order by name", (upload.attempt_id,)
            )
            return [Result.from_row(row) for row in await cursor.fetchall()]

        if upload.attempt_id is None or upload.state.gone:
            return []
        return await self._database.transaction(work)

    async def named(self, upload: Upload, name: str) -> Result | None:
        """A published result by its name, or None."""
        return next((result for result in await self.published(upload) if result.name == name), None)
