"""Scopes: what the running code works for."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys

import linetrace
from linetrace import context
from tests.linetrace.running import PACKAGE


def ids() -> dict[str, str] | None:
    """The ids of the running code."""
    scope = context.current.get()
    return None if scope is None else scope.ids


def test_ids_are_bound_inside_and_those_around_stay() -> None:
    with linetrace.request("GET", "/", request="r1"):
        with linetrace.bound(job=5, upload=None):
            assert ids() == {"request": "r1", "job": "5"}
            linetrace.add(user="ann")
            assert ids() == {"request": "r1", "job": "5", "user": "ann"}
        assert ids() == {"request": "r1", "user": "ann"}
    assert ids() is None
    linetrace.add(user="nobody")  # outside of any scope
    assert ids() is None


def test_tasks_and_their_threads_inherit_them() -> None:
    async def main() -> list[dict[str, str] | None]:
        async def child() -> dict[str, str] | None:
            await asyncio.sleep(0)
            return ids()

        with linetrace.bound(job=1):
            task = asyncio.create_task(child())
            in_thread = await asyncio.to_thread(ids)
        return [await task, in_thread, ids()]

    assert asyncio.run(main()) == [{"job": "1"}, {"job": "1"}, None]


def test_a_scope_that_is_left_in_another_context_harms_nothing() -> None:
    scope = linetrace.bound(job=1)
    contextvars.copy_context().run(scope.__enter__)
    scope.__exit__(None, None, None)
    assert ids() is None


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import linetrace; print(sorted(set(sys.modules) - before))"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout in ("['linetrace']\n", "['__future__', 'linetrace']\n")


def test_public_names_are_found_when_they_are_used() -> None:
    for name in linetrace.__all__:
        assert getattr(linetrace, name) is not None
    assert not hasattr(linetrace, "nothing")
