"""What a release takes away from the database: not while a kept release needs it, and no way leads back behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import release
from ops.artefact import manifest
from ops.inventories import LAB_ENVIRONMENT
from ops.paths import APP
from tests.support.deployments import BACK, DEPLOY, assert_on, failed, name_of
from tests.support.releases import altered, in_wheel
from tests.support.site import Site, inv

EXPANDING, CONTRACTING = "9998", "9999"
CONTRACT = ("database.contract", f"--env={LAB_ENVIRONMENT}", f"--confirm={LAB_ENVIRONMENT}")
OLD_SHAPE = "select to_regclass('old_shape')"


def two_revisions(content: Path) -> None:
    """A shape beside the old one; and, for later, the old one's end."""
    folder, head = "longhaul/migrations/versions", manifest.schema_head(APP / "migrations")
    expanding = (
        '"""Makes the new shape."""\nfrom alembic import op\n'
        f'revision, down_revision, phase = "{EXPANDING}", "{head}", "expand"\n'
        "def upgrade():\n    op.execute('create table new_shape (id int)')\n"
    )
    contracting = (
        '"""Takes the old shape away."""\nfrom alembic import op\n'
        f'revision, down_revision, phase = "{CONTRACTING}", "{EXPANDING}", "contract"\n'
        f'needs_head = "{EXPANDING}"\n'
        "def upgrade():\n    op.execute('drop table old_shape')\n"
    )
    in_wheel(f"{folder}/{EXPANDING}_expands.py", lambda _: expanding)(content)
    in_wheel(f"{folder}/{CONTRACTING}_contracts.py", lambda _: contracting)(content)
    described = content / manifest.NAME
    described.write_text(json.dumps(json.loads(described.read_text()) | {"schema_head": CONTRACTING}))


@pytest.fixture
def old_shape(site: Site, current: release.Release) -> Iterator[None]:
    """Something that the releases so far use. Afterwards the database is what they know again, and they run."""
    site.sql("create table old_shape (id int)")
    yield
    site.sql(
        "drop table if exists old_shape, new_shape;"
        "delete from schema_revisions where revision like '999_';"
        "update alembic_version set version_num = (select max(revision) from schema_revisions)"
    )
    done = inv(*DEPLOY, f"--release={current.version}")
    assert done.returncode == 0, done.stdout[-10000:]
    assert_on(site, current.version)


@pytest.mark.usefixtures("old_shape")
def test_what_kept_releases_need_is_taken_away_when_they_are_gone(site: Site, current: release.Release) -> None:
    first, second = name_of(current) + "-1", name_of(current) + "-2"
    with altered(current, first, two_revisions), altered(current, second, two_revisions):
        for version in (first, second):
            done = inv(*DEPLOY, f"--release={version}")
            assert done.returncode == 0, done.stdout[-10000:]
            assert site.sql("select version_num from alembic_version") == [[EXPANDING]]
            assert "and hosts keep such a release: deploy newer ones until it is gone" in failed(*CONTRACT)
            assert site.sql(OLD_SHAPE) == [["old_shape"]]
        # A host keeps a fixed number, and lets the oldest go when it installs one more: the scenario of its role.
        for host in site.versions():
            others = f"cd /opt/longhaul/releases && ls | grep --invert-match --line-regexp '{first}\\|{second}'"
            site.run(host, "sh", "-c", f"{others} | xargs rm --recursive", seconds=120)
        contracted = inv(*CONTRACT)
        assert contracted.returncode == 0, contracted.stdout[-10000:]
        assert site.sql(OLD_SHAPE) == [[""]]
        assert_on(site, second)

        removed = f"revision {CONTRACTING} removed from the database what this release needs"
        assert removed in failed(*DEPLOY, f"--release={current.version}")
        assert removed in failed(*BACK, f"--to={current.version}")
        assert_on(site, second)
        back = inv(*BACK)
        assert back.returncode == 0, back.stdout[-10000:]
        assert_on(site, first)
