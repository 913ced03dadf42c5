"""The tasks `docs.*`: the generated parts of the documentation."""

from __future__ import annotations

from ops.console import console
from ops.docs import pages
from ops.errors import Failure
from ops.paths import ROOT
from ops.tasks.declare import task


@task()
def build(_context: object) -> None:
    """Write all generated pages and files."""
    for path, text in pages().items():
        if path.read_text() != text:
            path.write_text(text)
            console.print(f"wrote {path.relative_to(ROOT)}")


@task()
def check(_context: object) -> None:
    """Fail if a generated page or file is out of date."""
    stale = [str(path.relative_to(ROOT)) for path, text in pages().items() if path.read_text() != text]
    if stale:
        raise Failure(f"Not up to date: {', '.join(stale)}.", "Run: ./inv docs.build")
