"""Log lines as JSON objects on standard output, one per line, each with the ids that are bound around it.

    log = logs.get(__name__)
    with logs.bound(upload_id=upload.id):
        log.info("piece committed", extra={"start": 0, "length": 4096})

gives `{"time": ..., "level": "info", "logger": ..., "message": "piece committed", "request_id": ..., "upload_id": ...,
"start": 0, "length": 4096}`. Bound ids follow a request through its tasks (context variables).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import linetrace

_ids: ContextVar[dict[str, str]] = ContextVar("longhaul_log_ids", default={})  # noqa: B039  # never mutated, only replaced
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def get(name: str) -> logging.Logger:
    """The logger of a module."""
    return logging.getLogger(name)


@contextmanager
def bound(**ids: str | int | None) -> Iterator[None]:
    """Put ids (request_id, upload_id, job_id, ...) on every line logged in this context. None leaves an id as it is.

    The tracer knows them too, without `_id`.
    """
    token = _ids.set(_ids.get() | {name: str(value) for name, value in ids.items() if value is not None})
    try:
        with linetrace.bound(**{name.removesuffix("_id"): value for name, value in ids.items()}):
            yield
    finally:
        _ids.reset(token)


def bound_ids() -> dict[str, str]:
    """The ids that are bound now, to pass them to another process (job arguments, a header)."""
    return dict(_ids.get())


class JsonFormatter(logging.Formatter):
    """One JSON object per record; fields given in `extra` stand beside the standard ones."""

    def __init__(self, server: str = "") -> None:
        super().__init__()
        self.server = server

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "server": self.server,
            "pid": record.process,
            **_ids.get(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def setup(server: str, level: int = logging.INFO) -> None:
    """Send all loggers of this process to standard output as JSON; call once at start."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(server))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The application logs each request itself, with ids and duration.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").handlers.clear()
    logging.getLogger("uvicorn").handlers.clear()
