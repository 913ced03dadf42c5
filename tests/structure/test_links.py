"""The files, headings, tasks and options that pages name exist, and each rule rejects a known-bad case."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from invoke import Collection

import tasks
from ops.paths import APP, DOCS, ROLES, ROOT
from tests.structure import links

PAGES = sorted(
    [ROOT / "README.md", APP / "processors" / "README.md", *DOCS.rglob("*.md"), *ROLES.glob("*/README.md")],
)
FOLDERS = frozenset(
    {".ci", ".config", ".github", "app", "docs", "inventories", "ops", "playbooks", "plugins", "roles", "tests"}
)
MADE_BY_TASKS = frozenset({"inventories/<env>/group_vars/all/packages.yml"})
"""Files that a clone does not have yet."""


@cache
def options() -> dict[str, frozenset[str]]:
    """Every task, and the long options that it has."""
    assert isinstance(tasks.namespace, Collection)
    contexts = tasks.namespace.to_contexts()
    return {str(context.name): frozenset({*context.flags, *context.inverse_flags}) for context in contexts}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    paths = links.paths(page, ROOT, FOLDERS, MADE_BY_TASKS)
    found = [*links.links(page), *paths, *links.commands(page, options())]
    assert not found, "\n".join(found)


def test_there_is_something_to_check() -> None:
    assert len(PAGES) > 30
    assert all((ROOT / folder).is_dir() for folder in FOLDERS)
    assert {"--env", "--release", "--no-provision"} <= options()["deploy"]


# --- Each rule rejects something ------------------------------------------------------------------------------------

GOOD = """# A page

[Here](#a-page), [there](other.md#how-it-works) and [out](https://example.org/none). See `ops/<env>/a*.py`, `ops/`,
`ops/made.yml`, `/etc/nothing` and `./inv deploy
--no-provision`; `./inv --list`.

```sh
./inv lab.exec web1 -- ls --all    # a comment may say ./inv anything
```
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("(#a-page)", "(#a-pag)", "page.md has no heading for #a-pag"),
        ("other.md", "others.md", "leads nowhere"),
        ("#how-it-works", "#how", "other.md has no heading"),
        ("a*.py", "b*.py", "there is no ops/<env>/b*.py"),
        ("`ops/`", "`ops/b/`", "there is no ops/b/"),
        ("made.yml", "mad.yml", "there is no ops/mad.yml"),
        ("inv deploy", "inv deploi", "there is no task deploi"),
        ("--no-provision", "--no-provisions", "deploy has no option --no-provisions"),
        ("web1 --", "web1 --all --", "lab.exec has no option --all"),
    ],
)
def test_a_page_that_names_what_is_not_there_is_rejected(tmp_path: Path, old: str, new: str, says: str) -> None:
    (tmp_path / "ops" / "lab").mkdir(parents=True)
    (tmp_path / "ops" / "lab" / "a1.py").touch()
    (tmp_path / "other.md").write_text("# Other\n\n## How it works\n")
    known = {"deploy": {"--no-provision"}, "lab.exec": {"--rehearse"}}
    page = tmp_path / "page.md"

    def found() -> list[str]:
        paths = links.paths(page, tmp_path, {"ops"}, {"ops/made.yml"})
        return [*links.links(page), *paths, *links.commands(page, known)]

    page.write_text(GOOD)
    assert found() == []
    page.write_text(GOOD.replace(old, new))
    (only,) = found()
    assert says in only
