"""Lets operators see which lines of the application run for a request, an upload or a job; see app/linetrace.

Each process listens on a socket that only its own user and root may use. Nothing else happens until somebody asks.
"""

from __future__ import annotations

from pathlib import Path

import linetrace
from linetrace.listener import default_directory
from longhaul import logs

FOLDERS = (Path(__file__).parent,)
"""Whose lines are shown: those of this package, not of the libraries that it uses."""
log = logs.get(__name__)


def listen(name: str) -> None:
    """Listen for `python -m linetrace attach`, in systemd's RuntimeDirectory if there is one.

    If that is not possible, the process works without.
    """
    try:
        linetrace.listen(default_directory(), name, FOLDERS, syslog={"tag": f"longhaul-{name}"})
    except OSError as error:
        log.warning("this process cannot be traced", extra={"error": str(error)})
