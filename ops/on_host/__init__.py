"""Our programs that run on hosts: each is one file, which needs only Debian's Python and its standard library.

The docstring of a program says what it takes and what it prints. The control side runs one with `remote.ask_program`; a
role finds the file with the lookup `on_host` (plugins/lookup/on_host.py).
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The programs that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def path_of(name: str) -> Path:
    """The file of a program. Raises ValueError, with the names that exist, if there is none of that name."""
    if name not in names():
        raise ValueError(f"There is no program '{name}' in ops/on_host. There are: {', '.join(names())}.")
    return FOLDER / f"{name}.py"
