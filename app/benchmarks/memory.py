"""Peak memory of the web process while one large file is uploaded.

    python -m benchmarks.memory [--megabytes 1000] [--connections 1]

Starts a throwaway PostgreSQL and a web process with a directory store, sends the file in one PATCH (over as many
connections at once as asked for, one upload each), and prints one JSON line: the peak resident memory of the process in
MB (VmHWM), its resident memory before the upload, and the rate. Exits with 1 if the peak is above `LIMIT_MB`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from longhaul import schema
from longhaul.settings import Settings
from ops.throwaway_postgresql import throwaway_postgresql
from tests.processes import Web, site

LIMIT_MB = 150
PART = b"\xa5" * (1 << 18)


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="Peak memory of the web process during uploads.")
    parser.add_argument("--megabytes", type=int, default=1000, help="size of each file in 10^6 bytes")
    parser.add_argument("--connections", type=int, default=1, help="uploads at once")
    arguments = parser.parse_args()
    with throwaway_postgresql() as server, tempfile.TemporaryDirectory() as folder:
        schema.migrate(Settings(database=server.conninfo, store="directory:/nowhere"))
        with site(Path(folder) / "site", server.conninfo) as made:
            result = measure(made.web("web1"), arguments.megabytes * 10**6, arguments.connections)
    print(json.dumps(result))  # noqa: T201  # its purpose
    return 0 if result["peak_mb"] <= LIMIT_MB else 1


def measure(web: Web, size: int, connections: int) -> dict[str, float]:
    """Upload `connections` files of `size` bytes at once."""
    before = _memory(web, "VmRSS")
    began = time.monotonic()
    senders = [threading.Thread(target=_send, args=(web, size)) for _ in range(connections)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    seconds = time.monotonic() - began
    return {
        "megabytes": size / 1e6,
        "connections": connections,
        "before_mb": before,
        "peak_mb": _memory(web, "VmHWM"),
        "megabytes_per_second": round(connections * size / 1e6 / seconds, 1),
    }


def _send(web: Web, size: int) -> None:
    url = web.create(size)
    patch = web.open_patch(url, 0, size)
    for start in range(0, size, len(PART)):
        patch.send(PART[: size - start])
    if not patch.answer_head().startswith(b"HTTP/1.1 204 "):
        raise SystemExit("the upload failed")
    if web.offset(url) != size:
        raise SystemExit("the upload is not complete")


def _memory(web: Web, field: str) -> float:
    """A field of /proc/PID/status, in MB of 10^6 bytes."""
    assert web.process is not None
    for line in Path(f"/proc/{web.process.pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    raise LookupError(field)


if __name__ == "__main__":
    sys.exit(main())
