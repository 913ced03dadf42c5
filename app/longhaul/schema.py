"""Brings the database to the shape that this release needs, and checks that the release can use what it finds.

Revisions are in `migrations/versions`; each declares `phase`. A deployment applies the expanding revisions before the
new code starts: releases that do not know them still work. A contracting revision removes what older releases need. It
also declares `needs_head`: a release that ships this revision works without what is removed. A contracting revision is
applied only on request, and only when every release that hosts keep for a rollback ships `needs_head`. Revisions are
applied in order, so an expanding revision behind a contracting one waits until the contracting one was applied.

The table `schema_revisions` lists what was applied. With it a release can check a database that is ahead of it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psycopg
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

LOCK_SECONDS = 2
"""A statement gives up if it waits longer than this for a lock: all other queries wait behind it."""
LOCK_TRIES = 10
"""How often a revision is tried. Between two tries the other queries get through."""
LOCK_PAUSE_SECONDS = 3.0
_ADVISORY_LOCK = 0x6C6F6E67

_APPLIED = """
create table if not exists schema_revisions (
    revision text primary key,
    phase text not null,
    needs_head text,
    release text not null,
    applied_at timestamptz not null default now()
)
"""
_NOTE = (
    "insert into schema_revisions (revision, phase, needs_head, release)"
    " values (:revision, :phase, :needs_head, :release) on conflict do nothing"
)


class MigrationError(Exception):
    """The revisions cannot be applied, or this release cannot use the database; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision of this release. `needs_head` is only set if its phase is contract."""

    revision: str
    phase: Phase
    needs_head: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The database's revision ("" if it is empty), whether it is ahead of this release, and the missing revisions."""

    current: str
    ahead: bool
    pending: list[Revision]


def scripts() -> ScriptDirectory:
    """The revisions of this release."""
    return ScriptDirectory.from_config(_config())


def revisions() -> list[Revision]:
    """The revisions of this release, oldest first. Raises MigrationError if one does not declare what it must."""
    ordered = list(scripts().walk_revisions())[::-1]
    known = [script.revision for script in ordered]
    return [
        Revision(script.revision, phase_of(script), _needs_head(script, known), (script.doc or "").strip())
        for script in ordered
    ]


def migrate(settings: Settings, phase: Phase = "expand", kept_heads: Sequence[str] = ()) -> list[str]:
    """Apply what is missing, up to the last revision of `phase`, and return the revisions applied.

    With "contract" all revisions are applied; `kept_heads` are the newest revisions of all releases that hosts keep.
    Raises MigrationError; then the revision that failed has changed nothing.
    """
    with _connection(settings) as connection:
        # Two hosts that migrate at the same time take turns.
        connection.execute(sqlalchemy.text("select pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        connection.commit()
        plan = _plan(connection)
        _keep_what_was_applied(connection, plan)
        unused = _unused(connection, settings.release, plan)
        wanted = _expansion(plan, unused=unused) if phase == "expand" else plan.pending
        for revision in wanted:
            if phase == "contract" and revision.phase == "contract":
                _refuse_while_needed(revision, kept_heads)
        for revision in plan.pending[len(wanted) :]:
            log.info("contracting revision left for later", extra={"revision": revision.revision})
        for revision in wanted:
            _patiently(partial(_apply, connection, settings.release, revision), connection, revision)
            log.info("revision applied", extra={"revision": revision.revision, "phase": revision.phase})
        return [revision.revision for revision in wanted]


def phase_of(script: Script) -> Phase:
    """The declared phase of a revision. Raises MigrationError if it declares none."""
    match getattr(script.module, "phase", None):
        case "expand":
            return "expand"
        case "contract":
            return "contract"
    raise MigrationError(f'revision {script.revision} must declare phase = "expand" or "contract"')


def _needs_head(script: Script, known: Sequence[str]) -> str | None:
    needs = getattr(script.module, "needs_head", None)
    if phase_of(script) == "expand":
        return None
    if needs not in known or known.index(needs) >= known.index(script.revision):
        raise MigrationError(
            f"revision {script.revision} contracts: it must declare needs_head, an earlier revision: releases that "
            "ship it do not need what is removed"
        )
    return str(needs)


def _plan(connection: sqlalchemy.Connection) -> Plan:
    ordered = revisions()
    known = [revision.revision for revision in ordered]
    current = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    if current is None:
        return Plan("", False, ordered)
    if current in known:
        return Plan(current, False, ordered[known.index(current) + 1 :])
    _refuse_a_shape_without_what_is_needed(connection, current, known)
    return Plan(current, True, [])


def _refuse_a_shape_without_what_is_needed(
    connection: sqlalchemy.Connection, current: str, known: Sequence[str]
) -> None:
    """Raise MigrationError unless all revisions that this release does not know leave it what it needs."""
    rows = _applied(connection)
    if current not in {row.revision for row in rows}:
        raise MigrationError(
            f"the database is at revision {current}, which this release does not know: deploy a release that has it"
        )
    for row in rows:
        if row.revision not in known and row.phase == "contract" and row.needs_head not in known:
            raise MigrationError(
                f"revision {row.revision} removed from the database what this release needs: choose a release that has "
                f"revision {row.needs_head}, which does not need it"
            )


def _applied(connection: sqlalchemy.Connection) -> Sequence[Any]:
    """The rows of `schema_revisions`, oldest first; none if there is no such table."""
    rows: Sequence[Any] = []
    if sqlalchemy.inspect(connection).has_table("schema_revisions"):
        query = "select revision, phase, needs_head, release from schema_revisions order by applied_at, revision"
        rows = connection.execute(sqlalchemy.text(query)).all()
    connection.rollback()
    return rows


def _unused(connection: sqlalchemy.Connection, release: str, found: Plan) -> bool:
    """Whether no other release can use the database: it is empty, or this release applied all its revisions and its
    first deployment was interrupted.
    """
    applied_by = {row.release for row in _applied(connection)}
    return not found.current or applied_by == {release}


def _expansion(found: Plan, *, unused: bool) -> list[Revision]:
    """The revisions that a deployment applies: up to the last expanding one, because the release needs them all.

    Raises MigrationError if a contracting one stands among them, unless no other release can use the database.
    """
    last = max((number for number, revision in enumerate(found.pending, 1) if revision.phase == "expand"), default=0)
    wanted = found.pending[:last]
    for revision in wanted:
        if revision.phase == "contract" and not unused:
            raise MigrationError(
                f"this release needs revision {wanted[-1].revision}, which comes after revision {revision.revision}. "
                "That one contracts, and a deployment does not apply it: once no kept release needs the old shape, "
                "apply it with ./inv database.contract; or deploy a release without it"
            )
    return wanted


def _refuse_while_needed(revision: Revision, kept_heads: Sequence[str]) -> None:
    """Raise MigrationError if a release that hosts keep needs what the revision takes away."""
    known = [one.revision for one in revisions()]
    if not kept_heads:
        raise MigrationError(f"revision {revision.revision} contracts: name the heads of the releases that hosts keep")
    assert revision.needs_head is not None, "revisions() checks it"
    for head in kept_heads:
        # A head that this release does not know is of a newer one.
        if head in known and known.index(head) < known.index(revision.needs_head):
            raise MigrationError(
                f"revision {revision.revision} would remove what a release with head {head} needs, and hosts keep such "
                "a release: deploy newer ones until it is gone (hosts keep a fixed number), then try again"
            )


def _keep_what_was_applied(connection: sqlalchemy.Connection, found: Plan) -> None:
    """Create the table, and enter the revisions that were applied before it existed; their release is unknown."""
    connection.execute(sqlalchemy.text(_APPLIED))
    if not found.ahead and found.current:
        for revision in revisions():
            connection.execute(sqlalchemy.text(_NOTE), _noted(revision, ""))
            if revision.revision == found.current:
                break
    connection.commit()


def _noted(revision: Revision, release: str) -> dict[str, str | None]:
    return {
        "revision": revision.revision,
        "phase": revision.phase,
        "needs_head": revision.needs_head,
        "release": release,
    }


def _apply(connection: sqlalchemy.Connection, release: str, revision: Revision) -> None:
    """One revision with its note, in one transaction."""

    def note(**_: object) -> None:
        connection.execute(sqlalchemy.text(_NOTE), _noted(revision, release))

    connection.execute(sqlalchemy.text(f"set lock_timeout = '{LOCK_SECONDS}s'"))
    connection.commit()
    config = _config()
    config.attributes["connection"] = connection
    config.attributes["on_version_apply"] = note
    command.upgrade(config, revision.revision)
    connection.commit()


def _patiently(apply: Callable[[], None], connection: sqlalchemy.Connection, revision: Revision) -> None:
    """Try again while others hold a lock that the revision needs. Raises MigrationError."""
    for number in range(1, LOCK_TRIES + 1):
        try:
            return apply()
        except sqlalchemy.exc.DBAPIError as error:
            connection.rollback()
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise MigrationError(
                    f"revision {revision.revision} failed and changed nothing: {error.orig}. Mend it and deploy again"
                ) from error
            log.warning("revision waits for a lock", extra={"revision": revision.revision, "try": number})
        if number < LOCK_TRIES:
            time.sleep(LOCK_PAUSE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311  # spreads, protects nothing
    raise MigrationError(
        f"revision {revision.revision} did not get its lock in {LOCK_TRIES} tries and changed nothing: find the long "
        "transaction (pg_stat_activity), end it or wait for it, and deploy again"
    )


def _connection(settings: Settings) -> sqlalchemy.Connection:
    conninfo = make_conninfo(settings.database, password=settings.credential("database-password"))
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=sqlalchemy.NullPool
    )
    return engine.connect()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_folder()))
    return config


def _folder() -> Path:
    packaged = Path(__file__).parent / "migrations"
    return packaged if packaged.exists() else Path(__file__).parent.parent / "migrations"
