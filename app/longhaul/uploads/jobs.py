"""The job that processes an upload: its queue, and how it is queued in the transaction that changes the upload."""

from __future__ import annotations

import base64
import re
from datetime import timedelta

from procrastinate import PsycopgConnector
from procrastinate.jobs import Job
from procrastinate.manager import JobManager

from longhaul import logs
from longhaul.database import Connection
from longhaul.uploads.model import Upload

log = logs.get(__name__)

QUEUE = "processing"
TASK = "longhaul.process"
WORKER_METADATA = "worker"
"""Key of an upload's metadata that names the worker which must process it. A smoke test proves one worker with it."""

_HOST_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


class Jobs:
    """Puts jobs into Procrastinate's queue, on the connection of the caller's transaction."""

    def __init__(self) -> None:
        # Never opened: the jobs are inserted on the connection of the transaction at hand.
        self._manager = JobManager(PsycopgConnector())

    async def add(self, connection: Connection, upload: Upload) -> None:
        """Queue the processing of an upload, in the transaction that makes it due."""
        job = await self._manager.defer_job_async(
            Job(
                queue=_queue_of(upload),
                lock=None,
                queueing_lock=None,
                task_name=TASK,
                task_kwargs={"upload_id": upload.id, "request_id": logs.bound_ids().get("request_id")},
            ),
            connection=connection,
        )
        log.info("processing queued", extra={"upload_id": upload.id, "job_id": job.id})

    async def free(self, connection: Connection, after: timedelta) -> int:
        """Let any worker take the jobs that waited longer than `after` for a certain one. Returns their number.

        Jobs of deleted uploads are included: the worker that takes one ends it.
        """
        cursor = await connection.execute(
            "update procrastinate_jobs set queue_name = %s where status = 'todo' and task_name = %s"
            " and queue_name like %s and not exists"
            " (select from uploads where id = args->>'upload_id' and updated_at > now() - %s)",
            (QUEUE, TASK, queue_for("%"), after),
        )
        return cursor.rowcount


def queue_for(worker: str) -> str:
    """The queue that only this worker takes jobs from."""
    return f"{QUEUE}@{worker}"


def _queue_of(upload: Upload) -> str:
    """The queue for its job. A worker in the metadata that is not a host's name is ignored."""
    try:
        worker = base64.b64decode(upload.metadata.get(WORKER_METADATA, ""), validate=True).decode()
    except ValueError:
        return QUEUE
    return queue_for(worker) if _HOST_NAME.fullmatch(worker) else QUEUE
