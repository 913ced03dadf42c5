"""The web process of the tests without the tracer in it, to compare with."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import linetrace
from longhaul import cli, tracing
from longhaul.web import server
from tests import bare_web


def nothing(*_: object, **__: object) -> Any:
    """In place of what the tracer would do."""
    return contextlib.nullcontext()


def same(app: Any, **_: object) -> Any:
    """In place of the middleware."""
    return app


linetrace.bound = nothing  # type: ignore[assignment,misc]
linetrace.add = nothing
tracing.listen = nothing
vars(server)["LineTrace"] = same

if __name__ == "__main__":
    assert bare_web
    sys.exit(cli.main(["web"]))
