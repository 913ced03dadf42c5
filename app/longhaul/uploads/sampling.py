"""A sample of what the server has of an upload: a sender proves with it that its file is the one that began it.

Name, size and modification time of two files may agree, so before a sender adds anything it compares the digests of
some blocks with the same bytes of its file. A block is what one recorded digest covers: up to 1 MiB of a piece.

The sample has the first and the last block, and those at `POSITIONS` places that are chosen anew each time, each byte
being as likely as any other. If the share f of the bytes lies in blocks that differ, all places miss it with the
probability (1 - f) ** POSITIONS. A few blocks are all compared.
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
"""If blocks with the share DIFFERING of what is stored differ, or more, this is the least probability to find it."""
POSITIONS = math.ceil(math.log(1 - FOUND) / math.log(1 - DIFFERING))
BLOCKS = POSITIONS + 2
"""Most blocks of a sample: 61, which are at most 64 MB to read for the sender."""

_random = random.SystemRandom()


async def sample(uploads: Uploads, upload_id: str, key: str) -> tuple[Upload, list[BlockDigest]]:
    """The upload, whose offset must not be told, and digests of what counts of it, in order.

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
    """The blocks in which these bytes lie, each once. Slow uploads have tens of thousands of pieces: only those pieces
    are read that are asked for."""
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
