"""Taking an upload over from its present receiver, which is asked first.

The epoch alone decides. Asking saves what the other connection has received and not yet committed. It also lets two
clients on one upload make progress in turn; else each would throw the other's bytes away.
"""

from __future__ import annotations

import asyncio
import contextlib

from longhaul import logs
from longhaul.database import DatabaseUnavailable
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.epochs import Receivers
from longhaul.uploads.model import Upload

log = logs.get(__name__)

PATIENCE_SECONDS = 2.5
"""A live receiver learns within 1 s that it was asked, and needs 1 s to store a piece. A dead one never answers."""
LOOK_SECONDS = 0.1


async def take(
    uploads: Uploads,
    receivers: Receivers,
    upload_id: str,
    key: str,
    *,
    offset: int | None = None,
    receive: bool = False,
    patience: float = PATIENCE_SECONDS,
) -> Upload:
    """Raise the upload's epoch, giving its present receiver up to `patience` seconds to commit what it has.

    With `receive`, this process receives under the new epoch. Returns and raises as `Uploads.take_over`.
    """
    process = receivers.process if receive else None
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while loop.time() < deadline:
        upload = await uploads.ask(upload_id, key, receiver=process, offset=offset)
        receivers.taken(upload)
        if upload.asked_epoch is None:
            return upload
        await _released(uploads, upload, deadline)
    upload = await uploads.take_over(upload_id, key, receiver=process, offset=offset)
    log.info("taken over from a receiver that did not answer", extra={"upload_id": upload_id, "epoch": upload.epoch})
    receivers.taken(upload)
    return upload


async def _released(uploads: Uploads, asked: Upload, deadline: float) -> None:
    """Wait until the asked receiver has left, or until the deadline."""
    loop = asyncio.get_running_loop()
    while loop.time() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
        # If the database is away, the next `ask` or `take_over` waits for it.
        with contextlib.suppress(DatabaseUnavailable):
            now = await uploads.get(asked.id)
            if now.receiver is None or now.epoch != asked.epoch:
                return
