"""A sample of what the server has of an upload. A sender proves with it that the upload was begun with its file.

Name, size and modification time of two files may agree. So before a sender continues an upload, it compares the digests
of some blocks with the same bytes of its file. A block is what one recorded digest covers: up to 1 MiB of a piece.

The sample has the first block, the last block, and the blocks at `POSITIONS` random places. Each byte is equally
likely, and each sample has other places. If the share f of the bytes is in blocks that differ, all places miss them
with the probability (1 - f) ** POSITIONS. If there are few blocks, the sample has them all.
"""

from __future__ import annotations

import math
import random

from longhaul.database import Connection
from longhaul.stores.content import BLOCK, DIGEST
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.model import BlockDigest, Gone, NotFound, Piece, Upload

DIFFERING = 0.05
FOUND = 0.95
"""If at least the share DIFFERING of the stored bytes is in blocks that differ, a sample finds it so often, or more."""
POSITIONS = math.ceil(math.log(1 - FOUND) / math.log(1 - DIFFERING))
BLOCKS = POSITIONS + 2
"""Most blocks of a sample: 61. The sender reads at most 64 MB for them."""

_random = random.SystemRandom()


async def sample(uploads: Uploads, upload_id: str, key: str) -> tuple[Upload, list[BlockDigest]]:
    """The upload, and digests of some blocks that count, in order. Never tell the offset of this upload.

    Raises NotFound, Gone, DatabaseUnavailable.
    """

    async def work(connection: Connection) -> tuple[Upload, list[BlockDigest]]:
        cursor = await connection.execute("select * from uploads where id = %s and key = %s", (upload_id, key))
        row = await cursor.fetchone()
        if row is None:
            raise NotFound("there is no such upload: check the URL, or create a new upload")
        upload = Upload.from_row(row)
        if upload.state.gone:
            raise Gone(f"this upload was {upload.state}: create a new one")
        cursor = await connection.execute(
            "select coalesce(sum((length + %s) / %s), 0) as blocks from pieces"
            " where upload_id = %s and retired_at is null",
            (BLOCK - 1, BLOCK, upload_id),
        )
        counted = await cursor.fetchone()
        assert counted is not None, "a sum always gives a row"
        if counted["blocks"] <= BLOCKS:
            return upload, await _all(connection, upload_id)
        return upload, await _at(connection, upload_id, choose(upload.offset, _random))

    return await uploads.database.retrying(work, seconds=uploads.patience)


def choose(stored: int, chance: random.Random) -> list[int]:
    """Places in the first `stored` bytes, at least 1: the first, the last, and POSITIONS others."""
    return [0, stored - 1, *(chance.randrange(stored) for _ in range(POSITIONS))]


def blocks_of(piece: Piece) -> list[BlockDigest]:
    """The digests of a piece, with the bytes of the upload that each covers."""
    return [
        BlockDigest(
            start=piece.start + number * BLOCK,
            length=min(BLOCK, piece.length - number * BLOCK),
            sha256=piece.digests[number * DIGEST : (number + 1) * DIGEST].hex(),
        )
        for number in range(-(-piece.length // BLOCK))
    ]


async def _all(connection: Connection, upload_id: str) -> list[BlockDigest]:
    cursor = await connection.execute(
        "select * from pieces where upload_id = %s and retired_at is null order by start", (upload_id,)
    )
    return [block for row in await cursor.fetchall() for block in blocks_of(Piece.from_row(row))]


async def _at(connection: Connection, upload_id: str, positions: list[int]) -> list[BlockDigest]:
    """The blocks that hold these bytes, each once. A slow upload has tens of thousands of pieces: only the pieces that
    are needed are read."""
    cursor = await connection.execute(
        "select distinct piece.* from unnest(%s::bigint[]) as place cross join lateral"
        " (select * from pieces where upload_id = %s and retired_at is null and start <= place"
        " order by start desc limit 1) as piece order by start",
        (positions, upload_id),
    )
    pieces = [Piece.from_row(row) for row in await cursor.fetchall()]
    return [
        block
        for piece in pieces
        for block in blocks_of(piece)
        if any(block.start <= place < block.start + block.length for place in positions)
    ]
