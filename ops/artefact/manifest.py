"""The manifest of a release: version, commit, and every file with its size and SHA-256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ops.artefact.archive import files
from ops.errors import Exit, Failure

NAME = "manifest.json"


def write(content: Path, **described: str) -> None:
    """Write `manifest.json` into an unpacked release: `described`, and under `files` its other files.

    A manifest that is there already is replaced.
    """
    (content / NAME).unlink(missing_ok=True)
    listed = {
        path.relative_to(content).as_posix(): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files(content)
    }
    (content / NAME).write_text(json.dumps({**described, "files": listed}, indent=2) + "\n")


def schema_head(migrations: Path) -> str:
    """The revision that the database has when all migrations are applied. Raises Failure unless there is just one."""
    # alembic and what it brings are half of what all tasks import.
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    try:
        head = ScriptDirectory(str(migrations)).get_current_head()
    except CommandError as error:
        raise Failure(
            f"The migrations do not end in one revision: {error}",
            "Let one of them follow the other (down_revision in app/migrations/versions).",
            Exit.BAD_INPUT,
        ) from error
    if head is None:
        raise Failure(f"There are no migrations in {migrations}.", code=Exit.BAD_INPUT)
    return head
