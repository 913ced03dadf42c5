"""The shape of ops/: what may stand in which folder, and one name for one thing."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoke import Collection

import tasks
from ops import on_host
from ops.paths import ROOT
from tests.structure import rules

OPS = ROOT / "ops"
TASKS = OPS / "tasks"
NO_TASKS = frozenset({"__init__", "declare", "words"})
"""Modules of ops/tasks that hold no tasks: how a task is declared, and how bare words are read."""
TASK_MODULES = sorted(path for path in TASKS.glob("*.py") if path.stem not in NO_TASKS)


@pytest.mark.parametrize("name", on_host.names())
def test_program_for_hosts(name: str) -> None:
    assert list(rules.host_program(on_host.path_of(name))) == []


@pytest.mark.parametrize("path", TASK_MODULES, ids=lambda path: path.stem)
def test_task_module(path: Path) -> None:
    assert list(rules.task_module(path)) == []


def test_there_is_a_module_for_each_prefix() -> None:
    assert isinstance(tasks.namespace, Collection)
    prefixes = {name.partition(".")[0] for name in tasks.namespace.task_names if "." in name}
    assert prefixes <= {path.stem for path in TASK_MODULES}
    assert len(prefixes) > 5


def test_no_option_is_a_letter() -> None:
    """`-h` is help in every task, and no letter means one thing here and another there."""
    assert isinstance(tasks.namespace, Collection)
    for context in tasks.namespace.to_contexts():
        assert [flag for flag in context.flags if len(flag.lstrip("-")) == 1] == [], context.name


def test_every_name_has_one_meaning() -> None:
    modules = [path for path in OPS.rglob("*.py") if path.parent != TASKS and path.stem != "__init__"]
    assert len(modules) > 50
    assert list(rules.same_names({str(path.relative_to(ROOT)): path.read_text() for path in modules})) == []


def test_a_program_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"no program 'nothing'.*smoke_test"):
        on_host.path_of("nothing")


# --- Each rule rejects something ------------------------------------------------------------------------------------

GOOD = '"""Tells.\n\nTakes no arguments. Prints JSON.\n"""\nimport json\nif __name__ == "__main__":\n    print(json)\n'


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("import json", "from ops.paths import ROOT as json", "imports ops, which a host does not have"),
        ("import json", "import yaml as json", "imports yaml"),
        ("Takes no arguments. ", "", "does not say what it takes"),
        ("Prints JSON.", "", "does not say what it prints"),
        ("__main__", "__other__", "does nothing"),
    ],
)
def test_a_program_that_a_host_cannot_run_is_rejected(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "program.py"
    path.write_text(GOOD)
    assert list(rules.host_program(path)) == []
    path.write_text(GOOD.replace(old, new))
    (found,) = rules.host_program(path)
    assert says in found


@pytest.mark.parametrize("text", ["class Helper:\n    pass\n", "def helper() -> None:\n    pass\n"])
def test_a_library_among_the_tasks_is_rejected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "load.py"
    path.write_text('@task()\ndef load() -> None:\n    """Load."""\ndef _ask() -> None:\n    pass\n')
    assert list(rules.task_module(path)) == []
    path.write_text(path.read_text() + text)
    assert len(list(rules.task_module(path))) == 1


def test_a_name_with_two_meanings_is_rejected() -> None:
    assert list(rules.same_names({"a/x.py": "class A: ...", "b/y.py": "class B: ..."})) == []
    assert list(rules.same_names({"a/x.py": "", "b/x.py": ""})) == ["the module x is in a/x.py and in b/x.py"]
    assert list(rules.same_names({"a/x.py": "class A: ...", "b/y.py": "class A: ..."})) == [
        "the class A is in a/x.py and in b/y.py"
    ]
