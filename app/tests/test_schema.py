"""The rules of expanding and contracting: releases of different age on databases of different age.

The releases are small ones of this test's own: folders of revisions, and the statements that their code would run.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import psycopg
import pytest

from longhaul import schema
from longhaul.schema import MigrationError
from longhaul.settings import Settings
from ops.throwaway_postgresql import ThrowawayPostgresql

_numbers = itertools.count()

# Release 1 writes `name`; release 2 writes both; release 3 does without `name`; release 4 ships its removal.
REVISIONS = {
    "r1": ("expand", "", "create table files (id serial primary key, name text)"),
    "r2": ("expand", "", "alter table files add column title text"),
    "r3": ("expand", "", "comment on column files.title is 'instead of name'"),
    "r4": ("contract", "r3", "alter table files drop column name"),
}
WRITES = {
    "r1": "insert into files (name) values ('by 1')",
    "r2": "insert into files (name, title) values ('by 2', 'by 2')",
    "r3": "insert into files (title) values ('by 3')",
    "r4": "insert into files (title) values ('by 4')",
}
READS = {"r1": "select name from files", "r2": "select name, title from files", "r3": "select title from files"}


@pytest.fixture
def database(postgresql: ThrowawayPostgresql) -> Settings:
    """An empty database."""
    name = f"schema_{next(_numbers)}"
    postgresql.sql(f"create database {name} owner longhaul")
    conninfo = postgresql.conninfo.replace("dbname=longhaul", f"dbname={name}")
    return Settings(database=conninfo, store="directory:/nowhere", release="test")


type Choose = Callable[..., None]


@pytest.fixture
def choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Choose:
    """From now on, the code is that of the release whose newest revision is named; further ones may be added."""
    folder = tmp_path / "migrations"
    source = Path(schema.__file__).parents[1] / "migrations"

    def choose(head: str, **further: tuple[str, str, str]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "versions").mkdir(parents=True)
        for name in ("env.py", "script.py.mako"):
            shutil.copy(source / name, folder)
        before = None
        for name, (phase, needs_head, statement) in (REVISIONS | further).items():
            (folder / "versions" / f"{name}.py").write_text(
                f'"""Revision {name}."""\nfrom alembic import op\nrevision, down_revision = {name!r}, {before!r}\n'
                f"phase = {phase!r}\n"
                + (f"needs_head = {needs_head!r}\n" if needs_head else "")
                + f"def upgrade():\n    for statement in {statement.split(';')!r}:\n        op.execute(statement)\n"
            )
            before = name
            if name == head and name not in further and not further:
                break
        monkeypatch.setattr(schema, "_folder", lambda: folder)

    return choose


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "LOCK_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(schema, "LOCK_SECONDS", 1)
    monkeypatch.setattr(schema, "LOCK_TRIES", 3)


def sql(settings: Settings, query: str) -> list[tuple[object, ...]]:
    """Run a statement as a release's code would; its rows, if it has any."""
    with psycopg.connect(settings.database) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def look(settings: Settings) -> schema.Plan:
    """What a migration finds."""
    with schema._connection(settings) as connection:
        return schema._plan(connection)


class TestPhases:
    def test_old_and_new_code_work_on_the_expanded_database(self, database: Settings, choose: Choose) -> None:
        choose("r1")
        assert schema.migrate(database) == ["r1"]
        choose("r2")
        assert schema.migrate(database) == ["r2"]
        for head in ("r1", "r2"):
            sql(database, WRITES[head])
        # Each reads what the other wrote.
        assert sql(database, READS["r1"]) == [("by 1",), ("by 2",)]
        assert sql(database, READS["r2"]) == [("by 1", None), ("by 2", "by 2")]
        choose("r1")
        plan = look(database)
        assert (plan.current, plan.ahead, plan.pending) == ("r2", True, [])
        assert schema.migrate(database) == [], "an older release finds nothing to do"

    def test_contracting_waits_to_be_asked_for_and_then_for_the_releases_that_are_kept(
        self, database: Settings, choose: Choose
    ) -> None:
        choose("r4")
        assert schema.migrate(database) == ["r1", "r2", "r3"]
        assert [revision.phase for revision in look(database).pending] == ["contract"]
        sql(database, WRITES["r2"])
        for kept in (["r4", "r2"], ["r1"], []):
            with pytest.raises(MigrationError, match=r"hosts keep"):
                schema.migrate(database, "contract", kept)
        assert schema.migrate(database, "contract", ["r3", "r4", "of a newer release"]) == ["r4"]
        sql(database, WRITES["r3"])
        sql(database, WRITES["r4"])
        assert sql(database, READS["r3"]) == [("by 2",), ("by 3",), ("by 4",)]

    def test_what_a_release_needs_is_not_left_out_behind_a_contracting_revision(
        self, database: Settings, choose: Choose
    ) -> None:
        choose("r2")
        schema.migrate(database)
        database = replace(database, release="newer")
        choose("", r5=("expand", "", "alter table files add column size int"))
        refused = r"needs revision r5, which comes after revision r4\. .*inv database.contract"
        with pytest.raises(MigrationError, match=refused):
            schema.migrate(database)
        assert sql(database, "select version_num from alembic_version") == [("r2",)]
        # A release that ends with the contracting revision is deployed, and that revision applied when it may be.
        choose("r4")
        assert schema.migrate(database) == ["r3"]
        choose("", r5=("expand", "", "alter table files add column size int"))
        with pytest.raises(MigrationError, match=refused):
            schema.migrate(database)
        choose("r4")
        assert schema.migrate(database, "contract", ["r3", "r4"]) == ["r4"]
        choose("", r5=("expand", "", "alter table files add column size int"))
        assert schema.migrate(database) == ["r5"]

    def test_an_empty_database_gets_all_that_a_release_needs(self, database: Settings, choose: Choose) -> None:
        choose("", r5=("expand", "", "alter table files add column size int"), r6=("contract", "r5", "select 1"))
        assert schema.migrate(database) == ["r1", "r2", "r3", "r4", "r5"]
        assert [revision.revision for revision in look(database).pending] == ["r6"]

    def test_a_first_deployment_that_was_interrupted_is_resumed_by_its_release_alone(
        self, database: Settings, choose: Choose
    ) -> None:
        further = {"r5": ("expand", "", "alter table files add column size int")}
        choose("", **further | {"r3": ("expand", "", "select 1/0")})
        with pytest.raises(MigrationError, match="r3 failed"):
            schema.migrate(database)
        choose("", **further)
        other = replace(database, release="another")
        with pytest.raises(MigrationError, match="comes after revision r4"):
            schema.migrate(other)
        assert [revision.revision for revision in look(database).pending] == ["r3", "r4", "r5"]
        assert schema.migrate(database) == ["r3", "r4", "r5"]

    def test_a_release_that_needs_what_was_taken_away_is_refused(self, database: Settings, choose: Choose) -> None:
        choose("r4")
        schema.migrate(database)
        schema.migrate(database, "contract", ["r4"])
        choose("r3")
        assert look(database).ahead
        for head in ("r1", "r2"):
            choose(head)
            with pytest.raises(MigrationError, match=r"revision r4 removed .*: choose a release that has revision r3"):
                schema.migrate(database)
            with pytest.raises(psycopg.errors.UndefinedColumn):
                sql(database, READS[head])  # and rightly so

    @pytest.mark.parametrize("needs_head", ["", "r4", "r5", "unknown"])
    def test_a_contracting_revision_must_say_who_can_do_without(
        self, database: Settings, choose: Choose, needs_head: str
    ) -> None:
        choose("", r5=("contract", needs_head or "''", "select 1"))
        if needs_head == "r4":
            look(database)  # the one before it is fine
            return
        with pytest.raises(MigrationError, match="r5 contracts: it must declare needs_head"):
            look(database)

    def test_what_was_applied_before_there_was_a_record_is_noted(self, database: Settings, choose: Choose) -> None:
        choose("r2")
        schema.migrate(database)
        sql(database, "drop table schema_revisions")
        choose("r3")
        schema.migrate(database)
        noted = sql(database, "select revision, phase from schema_revisions order by revision")
        assert noted == [("r1", "expand"), ("r2", "expand"), ("r3", "expand")]

    def test_what_was_applied_before_there_was_a_record_counts_as_another_releases(
        self, database: Settings, choose: Choose
    ) -> None:
        choose("r2")
        schema.migrate(database)
        sql(database, "drop table schema_revisions")
        choose("", r5=("expand", "", "alter table files add column size int"))
        for _ in range(2):
            with pytest.raises(MigrationError, match="comes after revision r4"):
                schema.migrate(database)


@pytest.fixture
def blocker(database: Settings) -> Iterator[Callable[[], psycopg.Connection]]:
    """Opens a transaction that holds the table `files`."""
    opened: list[psycopg.Connection] = []

    def block() -> psycopg.Connection:
        connection = psycopg.connect(database.database)
        connection.execute("lock table files in access exclusive mode")
        opened.append(connection)
        return connection

    yield block
    for connection in opened:
        connection.close()


class TestTrouble:
    def test_a_failing_revision_changes_nothing_and_the_next_try_goes_on(
        self, database: Settings, choose: Choose
    ) -> None:
        choose("r1")
        schema.migrate(database)
        choose("", r2=("expand", "", "alter table files add column title text;select 1/0"))
        with pytest.raises(MigrationError, match="revision r2 failed and changed nothing: division by zero"):
            schema.migrate(database)
        assert sql(database, "select version_num from alembic_version") == [("r1",)]
        assert sql(database, "select revision from schema_revisions") == [("r1",)]
        sql(database, WRITES["r1"])
        with pytest.raises(psycopg.errors.UndefinedColumn):
            sql(database, READS["r2"])
        choose("r2")
        assert schema.migrate(database) == ["r2"]

    def test_a_lock_is_waited_for_and_then_given_up(
        self, database: Settings, choose: Choose, blocker: Callable[[], psycopg.Connection]
    ) -> None:
        choose("r1")
        schema.migrate(database)
        choose("r2")
        held = blocker()
        with pytest.raises(MigrationError, match="did not get its lock in 3 tries and changed nothing"):
            schema.migrate(database)
        assert sql(database, "select version_num from alembic_version") == [("r1",)]
        freed = threading.Timer(1.5, held.close)
        freed.start()
        assert schema.migrate(database) == ["r2"], "the second try finds the table free"
        freed.join()

    def test_a_process_that_dies_leaves_all_of_a_revision_or_nothing(
        self, database: Settings, choose: Choose, tmp_path: Path
    ) -> None:
        choose("r1")
        schema.migrate(database)
        choose("", r2=("expand", "", "alter table files add column title text;select pg_sleep(30)"))
        program = (
            "import sys\nfrom pathlib import Path\n"
            "from longhaul import schema\nfrom longhaul.settings import Settings\n"
            "schema._folder = lambda: Path(sys.argv[2])\n"
            "schema.migrate(Settings(database=sys.argv[1], store='directory:/nowhere'))\n"
        )
        command = [sys.executable, "-c", program, database.database, str(tmp_path / "migrations")]
        environment = {**os.environ, "PYTHONPATH": str(Path(schema.__file__).parents[1])}
        sleeping = "select count(*) from pg_stat_activity where query like '%pg_sleep%' and pid <> pg_backend_pid()"
        with subprocess.Popen(command, env=environment) as process:
            try:
                deadline = time.monotonic() + 30
                while sql(database, sleeping) == [(0,)]:
                    assert time.monotonic() < deadline, "the revision was never begun"
                    time.sleep(0.05)
            finally:
                process.kill()
        sql(
            database,
            "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep%'"
            " and pid <> pg_backend_pid()",
        )
        choose("r2")
        assert schema.migrate(database) == ["r2"], "neither a lock nor half of a revision is left"


def unmapped(names: list[str]) -> list[str]:
    """Procrastinate's migrations that no revision of ours has, by the newest one that one says it has."""
    newest = max(getattr(script.module, "procrastinate_up_to", "") for script in schema.scripts().walk_revisions())
    return sorted(name for name in names if name.endswith(".sql") and name > newest)


def test_the_queues_own_migrations_are_all_in_ours() -> None:
    """An update of Procrastinate needs revisions with its migrations first: `pre` ones expand, `post` ones contract."""
    installed = [entry.name for entry in (resources.files("procrastinate") / "sql" / "migrations").iterdir()]
    assert len(installed) > 10
    assert unmapped(installed) == []
    assert unmapped([*installed, "99.00.00_01_pre_new.sql"]) == ["99.00.00_01_pre_new.sql"]
