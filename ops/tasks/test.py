"""The tasks `test` and `lint`."""

from __future__ import annotations

from ops import testing
from ops.tasks.declare import task


@task(
    name="test",
    help={
        "only": "stages to run, comma-separated: lint, fast, app, molecule (or molecule:ROLE), system, soak",
        "retry": "run a failed test of the stages molecule and system once more (docs/flaky.md); --no-retry: never",
    },
)
def run_tests(_context: object, only: str = "", retry: bool = True) -> None:
    """Run the tests, quick ones first."""
    testing.run(testing.chosen(only), retry=retry)


@task()
def lint(_context: object) -> None:
    """Check style, types, layers and playbooks."""
    testing.lint(testing.Run())
