"""Bringing the database's tables to the shape this release needs.

Revisions live in `migrations/versions`; each declares `phase`. A deploy runs the expanding ones before the new code
starts; a contracting one runs only when asked for, once no older release is left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from psycopg.conninfo import make_conninfo

from longhaul import logs
from longhaul.settings import Settings

log = logs.get(__name__)

type Phase = Literal["expand", "contract"]

LOCK_SECONDS = 5
"""A migration that waits longer than this for a lock gives up: everything else would queue behind it."""
_ADVISORY_LOCK = 0x6C6F6E67


class MigrationError(Exception):
    """The revisions cannot be applied; the message says why and what to do."""


def scripts() -> ScriptDirectory:
    """The revisions of this release."""
    config = Config()
    config.set_main_option("script_location", str(_folder()))
    return ScriptDirectory.from_config(config)


def migrate(settings: Settings, phase: Phase = "expand") -> list[str]:
    """Apply what is missing, up to the last revision of `phase` that can be reached, and return the revisions applied.

    With "expand", stops before the first contracting revision. Raises MigrationError.
    """
    conninfo = make_conninfo(settings.database, password=settings.credential("database-password"))
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=_connector(conninfo), poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as connection:
        # Two hosts that deploy at once take turns.
        connection.execute(sqlalchemy.text("select pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        connection.execute(sqlalchemy.text(f"set lock_timeout = '{LOCK_SECONDS}s'"))
        connection.commit()
        missing = pending(connection)
        wanted: list[Script] = []
        for script in missing:
            if phase_of(script) == "contract" and phase == "expand":
                log.info("contracting revision left for later", extra={"revision": script.revision})
                break
            wanted.append(script)
        for script in wanted:
            config = Config()
            config.set_main_option("script_location", str(_folder()))
            config.attributes["connection"] = connection
            command.upgrade(config, script.revision)
            connection.commit()
            log.info("revision applied", extra={"revision": script.revision})
        return [script.revision for script in wanted]


def pending(connection: sqlalchemy.Connection) -> list[Script]:
    """Revisions that this database lacks, oldest first. Raises MigrationError if it is ahead of this release."""
    directory = scripts()
    current = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    order = list(directory.walk_revisions())[::-1]
    known = [script.revision for script in order]
    if current is None:
        return order
    if current not in known:
        raise MigrationError(
            f"the database is at revision {current}, which this release does not know: deploy a release that has it"
        )
    return order[known.index(current) + 1 :]


def phase_of(script: Script) -> Phase:
    """The declared phase of a revision. Raises MigrationError if it declares none."""
    match getattr(script.module, "phase", None):
        case "expand":
            return "expand"
        case "contract":
            return "contract"
    raise MigrationError(f'revision {script.revision} must declare phase = "expand" or "contract"')


def _folder() -> Path:
    packaged = Path(__file__).parent / "migrations"
    return packaged if packaged.exists() else Path(__file__).parent.parent / "migrations"


def _connector(conninfo: str) -> object:
    import psycopg

    return lambda: psycopg.connect(conninfo)
