"""Uploads that lost their job get another one, and jobs whose worker is gone become free for any worker."""

from __future__ import annotations

from datetime import timedelta

from longhaul import logs
from longhaul.database import Connection
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.jobs import TASK
from longhaul.uploads.model import Upload
from longhaul.uploads.rows import several

log = logs.get(__name__)

LOST_AFTER = timedelta(minutes=1)
"""An upload without a job and without a report for this long has lost its job: a run reports every 5 s."""
ABSENT_AFTER = timedelta(hours=1)
"""Longer than any smoke test waits for the worker that it names."""

_LOST = (
    "select * from uploads where state in ('queued', 'processing') and updated_at < now() - %s and not exists (select"
    " from procrastinate_jobs where status in ('todo', 'doing') and task_name = %s and args->>'upload_id' = uploads.id)"
)


async def queue_lost(uploads: Uploads, after: timedelta = LOST_AFTER) -> list[Upload]:
    """Queue the complete uploads that have waited for longer than `after` without a job, and return them.

    An upload and its job change in the same transaction, or the upload first, so there should be none. This repairs
    what a mistake has left. One job too many is harmless (see `processing.records`).
    """

    async def work(connection: Connection) -> list[Upload]:
        # Lock with one statement, read with another: the second one sees what a parallel call has queued meanwhile.
        await several(connection, f"{_LOST} for update", after, TASK)
        lost = await several(connection, _LOST, after, TASK)
        for upload in lost:
            log.warning("an upload waits without a job: queued again", extra={"upload_id": upload.id})
            with logs.bound(request_id=upload.request_id):
                await uploads.jobs.add(connection, upload)
        return lost

    return await uploads.database.retrying(work, seconds=uploads.patience)


async def free_jobs(uploads: Uploads, after: timedelta = ABSENT_AFTER) -> int:
    """Let any worker process the uploads that waited longer than `after` for a certain one, which may never return.

    Returns the number of these jobs.
    """

    async def work(connection: Connection) -> int:
        return await uploads.jobs.free(connection, after)

    freed = await uploads.database.retrying(work, seconds=uploads.patience)
    if freed:
        log.warning("jobs waited for a worker that does not take them: now any worker may", extra={"count": freed})
    return freed
