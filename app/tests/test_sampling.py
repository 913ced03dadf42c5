"""Which ranges a sender is asked to compare, and how likely a difference is found."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from longhaul.services import Services
from longhaul.uploads import sampling
from longhaul.uploads.model import BlockDigest, Gone, NotFound, Upload
from longhaul.uploads.pieces import PieceWriter
from longhaul.uploads.sampling import BLOCKS, DIFFERING, FOUND, POSITIONS, choose, sample
from tests.conftest import NewDatabase
from tests.support import asynchronous, make_settings, make_upload

MIB = 1 << 20


@pytest.fixture(scope="module")
def conninfo(new_database: NewDatabase) -> str:
    return new_database()


def services(conninfo: str, root: Path) -> Services:
    return Services.from_settings(make_settings(conninfo, root))


def digests_of(content: bytes, blocks: list[BlockDigest]) -> list[str]:
    return [hashlib.sha256(content[block.start : block.start + block.length]).hexdigest() for block in blocks]


def test_a_sample_is_at_most_64_mb() -> None:
    assert BLOCKS * MIB <= 64_000_000


@asynchronous
async def test_of_little_all_is_compared(conninfo: str, tmp_path: Path) -> None:
    here = services(conninfo, tmp_path)
    content = random.Random(1).randbytes(5 * MIB + 77)  # noqa: S311  # the same bytes in each run
    upload = await make_upload(here, content, piece=2 * MIB + 1)
    found, blocks = await sample(here.uploads, upload.id, upload.key)
    assert found.id == upload.id
    end = 0
    for block in blocks:
        assert (block.start, block.length <= MIB) == (end, True)
        end += block.length
    assert end == len(content)
    assert [block.sha256 for block in blocks] == digests_of(content, blocks)
    await here.close()


async def many_pieces(here: Services, content: bytes, sizes: list[int]) -> Upload:
    """An upload in pieces of these sizes."""
    upload = await here.uploads.create(owner="ann", size=len(content) + 1)
    upload = await here.uploads.take_over(upload.id, upload.key, receiver="test")
    start, pieces = 0, []
    for size in sizes:
        writer = PieceWriter(here.store, upload_id=upload.id, epoch=upload.epoch, start=start)
        await writer.write(content[start : start + size])
        pieces.append(await writer.close())
        start += size
    return await here.uploads.commit_pieces(pieces)


@asynchronous
async def test_of_much_a_sample_is_compared(conninfo: str, tmp_path: Path) -> None:
    here = services(conninfo, tmp_path)
    chance = random.Random(2)  # noqa: S311  # the same bytes in each run
    sizes = [chance.choice([10_000, 20_000, 50_000]) for _ in range(200)] + [MIB + 5]
    content = chance.randbytes(sum(sizes))
    upload = await many_pieces(here, content, sizes)
    seen: set[int] = set()
    for _ in range(5):
        _, blocks = await sample(here.uploads, upload.id, upload.key)
        assert len(blocks) <= BLOCKS
        assert [block.start for block in blocks] == sorted({block.start for block in blocks})
        assert blocks[0].start == 0
        assert blocks[-1].start + blocks[-1].length == len(content)
        assert [block.sha256 for block in blocks] == digests_of(content, blocks)
        seen |= {block.start for block in blocks}
    assert len(seen) > BLOCKS, "each sample has other places"
    await here.close()


@asynchronous
async def test_nothing_stored_and_nothing_there(conninfo: str, tmp_path: Path) -> None:
    here = services(conninfo, tmp_path)
    upload = await here.uploads.create(owner="ann", size=100)
    assert (await sample(here.uploads, upload.id, upload.key))[1] == []
    with pytest.raises(NotFound):
        await sample(here.uploads, upload.id, "guessed")
    await here.uploads.terminate(upload.id)
    with pytest.raises(Gone):
        await sample(here.uploads, upload.id, upload.key)
    await here.close()


def hits(stored: int, differing: range, chance: random.Random) -> bool:
    return any(place in differing for place in choose(stored, chance))


@pytest.mark.parametrize("share", [DIFFERING, 0.2])
def test_a_difference_is_found_as_often_as_promised(share: float) -> None:
    """Wherever it lies between the first byte and the last."""
    chance = random.Random(3)  # noqa: S311  # the seed decides which places are tried
    stored, tries = 3_000_000_000, 4000
    found = 0
    for _ in range(tries):
        length = int(share * stored)
        start = chance.randrange(1, stored - length)
        found += hits(stored, range(start, start + length), chance)
    expected = 1 - (1 - share) ** POSITIONS
    assert expected >= FOUND
    # Four standard deviations below what the formula in the module's text says.
    assert found / tries > expected - 4 * (expected * (1 - expected) / tries) ** 0.5


def test_the_first_byte_and_the_last_are_always_in_it() -> None:
    chance = random.Random(4)  # noqa: S311  # any will do
    for stored in (1, 2, 10**10):
        places = choose(stored, chance)
        assert {0, stored - 1} <= set(places)
        assert all(0 <= place < stored for place in places)


def test_places_cannot_be_foreseen() -> None:
    assert isinstance(sampling._random, random.SystemRandom)
