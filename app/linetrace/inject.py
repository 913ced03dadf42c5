"""A way into processes that do not listen: Python 3.14 and newer run a script that another process names (PEP 768).

The script makes the process listen for one client. Needed are the same version of Python on both sides, and the right
to debug the process: root, or its user where the kernel allows it (ptrace(2), "Ptrace access mode checking").
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from linetrace.client import AttachError

STARTING_SECONDS = 10
NAME = "process"
# It runs in the namespace of the program's `__main__`, and leaves nothing there.
_SCRIPT = """\
def listen():
    import os, sys
    sys.path.append({package!r})
    try:
        import linetrace
        main = getattr(sys.modules.get("__main__"), "__file__", None)
        folders = {folders!r} or [os.path.dirname(os.path.abspath(main)) if main else os.getcwd()]
        linetrace.listen({directory!r}, {name!r}, folders, clients=1)
    except BaseException as error:
        with open({directory!r} + "/error", "w") as file:
            file.write(f"{{type(error).__name__}}: {{error}}")
    finally:
        sys.path.remove({package!r})
listen()
"""


@contextlib.contextmanager
def listening(pid: int, folders: Sequence[str]) -> Iterator[Path]:
    """Make a process listen; gives its socket. `folders` are its own files, by default the folder of its main script.

    Raises AttachError if it cannot be reached.
    """
    remote_exec = getattr(sys, "remote_exec", None)
    if remote_exec is None:
        raise AttachError("--pid needs Python 3.14 or newer, here and in the process: let the process listen instead")
    with tempfile.TemporaryDirectory(prefix="linetrace-") as name:
        directory = Path(name)
        source = _SCRIPT.format(
            package=str(Path(__file__).parents[1]),
            folders=[str(Path(folder).absolute()) for folder in folders],
            directory=name,
            name=NAME,
        )
        script = directory / "listen.py"
        script.write_text(f"exec({source!r}, {{}})\n", encoding="utf-8")
        try:
            owner = Path(f"/proc/{pid}").stat()
            for path in (script, directory):
                os.chown(path, owner.st_uid, owner.st_gid)
            remote_exec(pid, str(script))
        except OSError as error:
            raise AttachError(f"process {pid}: {error.strerror or error}") from error
        except RuntimeError as error:  # another version of Python, or not Python
            raise AttachError(f"process {pid}: {error}") from error
        yield _wait_for(directory, pid)


def _wait_for(directory: Path, pid: int) -> Path:
    path, failed = directory / f"{NAME}-{pid}.sock", directory / "error"
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline:
        if path.exists():
            return path
        if failed.exists():
            raise AttachError(f"process {pid}: {failed.read_text(encoding='utf-8')}")
        time.sleep(0.02)
    raise AttachError(f"process {pid} ran no Python code for {STARTING_SECONDS} s: it waits for something, or hangs")
