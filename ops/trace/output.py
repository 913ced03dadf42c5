"""The file of a trace: plain text, a page to look at, or JSON for programs, as its name ends."""

from __future__ import annotations

from pathlib import Path

from ops.errors import Exit, Failure
from ops.trace.page import page
from ops.trace.recording import Recording, as_text

TEXT, PAGE, JSON = ".txt", ".html", ".json"


def checked(name: str) -> Path | None:
    """The path of --output; None without one. Raises Failure if nothing can be written there."""
    if not name:
        return None
    path = Path(name)
    if path.suffix not in (TEXT, PAGE, JSON):
        raise Failure(
            f"'{name}' ends in none of {TEXT}, {PAGE} and {JSON}.", "The end says what is written.", Exit.USAGE
        )
    if not path.parent.is_dir():
        raise Failure(f"There is no folder {path.parent}.", "Make it, or name another file.", Exit.USAGE)
    return path


def needs_sources(path: Path) -> bool:
    """Whether the file holds the sources too."""
    return path.suffix != TEXT


def write(path: Path, recording: Recording) -> None:
    """Write the file; only its owner may read it, since it shows what a running site works on. Raises Failure."""
    try:
        path.touch(mode=0o600)
        if path.suffix == TEXT:
            path.write_text(as_text(recording), encoding="utf-8")
        elif path.suffix == PAGE:
            path.write_text(page(recording), encoding="utf-8")
        else:
            recording.write(path)
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}.") from error
