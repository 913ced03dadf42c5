"""The directory store: what it keeps, and that it is on disk before the database says that it counts.

The order is taken from the system calls of a process that really stores and commits a piece, as strace sees them; the
same check must refuse processes in which one of the steps is missing.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longhaul.stores.content import Digests, read_verified, store_file
from longhaul.stores.directory import LEFT_BEHIND_SECONDS, DirectoryStore
from longhaul.stores.interface import Corrupt, Entry, ObjectMissing, StoreError

MIB = 1 << 20


def test_what_was_written_can_be_read_and_listed(store_root: Path) -> None:
    data = os.urandom(2 * MIB + 100)

    async def test() -> None:
        store = DirectoryStore(store_root)
        sink = store.sink("uploads/u/1")
        await sink.write(data[:MIB])
        assert [entry async for entry in store.list("")] == [], "not there before it is closed"
        await sink.write(data[MIB:])
        await sink.close()
        digests = Digests()
        digests.update(data)
        for start, length in [(0, len(data)), (0, 1), (MIB - 1, 2), (2 * MIB + 99, 1), (5, 0), (MIB, MIB)]:
            parts = read_verified(store, "uploads/u/1", len(data), digests.value(), start=start, length=length)
            assert b"".join([part async for part in parts]) == data[start : start + length]
        assert [entry async for entry in store.list("uploads/u")] == [Entry("uploads/u/1", len(data))]
        assert [entry async for entry in store.list("uploads/v")] == []
        await store.delete("uploads/u/1")
        await store.delete("uploads/u/1")
        with pytest.raises(ObjectMissing):
            await anext(aiter(store.read("uploads/u/1", 0, 1)))
        await store.close()

    asyncio.run(test())


def test_a_changed_byte_is_never_delivered(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longhaul.stores.content.READ_TRIES", 1)

    async def test() -> None:
        store = DirectoryStore(store_root)
        source = store_root.parent / "source"
        source.write_bytes(os.urandom(2 * MIB))
        stored = await store_file(store, "results/r", source)
        with (store_root / "results/r").open("r+b") as file:
            file.seek(MIB + 5)
            byte = file.read(1)
            file.seek(MIB + 5)
            file.write(bytes([byte[0] ^ 1]))
        delivered, damage_seen = b"", False
        try:
            async for part in read_verified(store, stored.name, stored.size, stored.digests):
                delivered += part
        except Corrupt:
            damage_seen = True
        assert damage_seen
        assert delivered == source.read_bytes()[:MIB]
        await store.close()

    asyncio.run(test())


def test_aborted_and_left_behind_files_go_away(store_root: Path) -> None:
    async def test() -> None:
        folder = store_root / "tmp"
        folder.mkdir()
        for name, age in [("old", LEFT_BEHIND_SECONDS + 60), ("young", 60)]:
            (folder / name).write_bytes(b"x")
            os.utime(folder / name, (time.time() - age,) * 2)
        store = DirectoryStore(store_root)
        sink = store.sink("uploads/u/1")
        writing = asyncio.create_task(sink.write(bytes(20 * MIB)))
        await asyncio.sleep(0)
        writing.cancel()
        await sink.abort()
        assert [path.name for path in folder.iterdir()] == ["young"]
        await store.close()

    asyncio.run(test())


def test_faults_of_the_disk_and_bad_names(store_root: Path) -> None:
    async def test() -> None:
        (store_root / "uploads").write_bytes(b"a file where a folder belongs")
        store = DirectoryStore(store_root)
        sink = store.sink("uploads/u/1")
        await sink.write(b"x")
        with pytest.raises(StoreError):
            await sink.close()
        await sink.abort()
        for name in ["../outside", "/etc/passwd", "a/../../b", "", "tmp/x"]:
            with pytest.raises(ValueError, match="cannot name"):
                store.sink(name)
        await store.close()

    asyncio.run(test())


# --- Durability ------------------------------------------------------------------------------------------------------

PROCESS = """
import asyncio, sys
from pathlib import Path
from longhaul.database import Database
from longhaul.stores.directory import DirectoryStore, DirectorySink
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.pieces import PieceWriter

{mistake}

async def main(conninfo, root):
    uploads = Uploads(Database(conninfo), server="traced", days=1)
    upload = await uploads.create(owner="tester", size=3_000_000)
    taken = await uploads.take_over(upload.id, upload.key, receiver="traced")
    writer = PieceWriter(DirectoryStore(root), upload_id=upload.id, epoch=taken.epoch, start=0)
    await writer.write(b"a" * 1_000_000)
    await writer.write(b"b" * 1_000_000)
    await uploads.commit_pieces([await writer.close()])
    await uploads.database.close()

asyncio.run(main(*sys.argv[1:]))
"""

MISTAKES = {
    "the file is not forced": "DirectoryStore.sync_file = lambda self, file: None",
    "the folders are not forced": "DirectoryStore.sync_folder = lambda self, folder: None",
    "nothing is forced": "DirectoryStore.sync_file = DirectoryStore.sync_folder = lambda *_: None",
    "only the last folder is forced": (
        "sync = DirectoryStore.sync_folder\n"
        "DirectoryStore.sync_folder = lambda self, at: sync(self, at) if at.parent.name == 'uploads' else None"
    ),
    "the row is committed first": (
        "close = PieceWriter.close\n"
        "class Later:\n"
        "    async def close(self): pass\n"
        "async def early(self):\n"
        "    sink, self._sink = self._sink, Later()\n"
        "    asyncio.get_running_loop().call_later(0.3, lambda: asyncio.ensure_future(sink.close()))\n"
        "    return await close(self)\n"
        "PieceWriter.close = early"
    ),
}


def test_a_piece_is_on_disk_before_it_counts(conninfo: str, store_root: Path) -> None:
    assert durability_problems(trace(conninfo, store_root, ""), store_root) == []


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_step_that_is_missing_is_seen(conninfo: str, store_root: Path, mistake: str) -> None:
    assert durability_problems(trace(conninfo, store_root, MISTAKES[mistake]), store_root) != []


type Calls = list[tuple[int, int, str]]
"""System calls: where in the trace each began, where it ended, and what it was."""


def trace(conninfo: str, root: Path, mistake: str) -> Calls:
    """Run the process under strace, and return the calls that write, force, rename, or talk to the database."""
    if shutil.which("strace") is None:
        pytest.fail("strace is missing, and durability cannot be tested without it: apt-get install strace")
    output = root.parent / "trace"
    calls = "trace=write,fdatasync,fsync,rename,renameat,renameat2,sendto,mkdir,mkdirat"
    subprocess.run(
        ["strace", "-f", "-y", "-s", "120", "-e", calls, "-o", str(output), sys.executable, "-c",
         PROCESS.format(mistake=mistake), conninfo, str(root)],
        check=True, timeout=120, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    return parse(output.read_text(errors="replace"))


def parse(text: str) -> Calls:
    """Put together the calls that strace shows in two parts, because another thread came between."""
    calls: Calls = []
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(text.splitlines()):
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[pid] = (number, call.removesuffix("<unfinished ...>"))
        elif match := re.match(r"<\.\.\. \w+ resumed>(.*)", call):
            first, start = begun.pop(pid)
            calls.append((first, number, start + match[1]))
        else:
            calls.append((number, number, call))
    return calls


def durability_problems(calls: Calls, root: Path) -> list[str]:
    """What is wrong with the order write -> fdatasync -> rename -> fsync of each folder -> commit of the row."""

    def ended(pattern: str) -> int | None:
        return max((end for _, end, call in calls if re.search(pattern, call)), default=None)

    def began(pattern: str) -> int | None:
        return min((start for start, _, call in calls if re.search(pattern, call)), default=None)

    place = re.escape(str(root))
    renamed = next((call for _, _, call in calls if re.match(r"rename\w*\(", call) and "/uploads/" in call), None)
    if renamed is None:
        return ["the piece was never renamed to its place"]
    name = re.findall(r'"([^"]*)"', renamed)[-1]
    order = [
        ("write", ended(rf"^write\(\d+<{place}/tmp/")),
        ("fdatasync", ended(rf"^fdatasync\(\d+<{place}/tmp/.*= 0$")),
        ("rename", ended(rf"^rename\w*\(.*{re.escape(name)}.*= 0$")),
    ]
    # Newest folder first; each is forced after the rename.
    folders = [folder for folder in Path(name).parents if folder == root or root in folder.parents]
    forced = [(f"fsync {folder}", ended(rf"^fsync\(\d+<{re.escape(str(folder))}>\).*= 0$")) for folder in folders]
    commit = began(r"^sendto\(.*insert into pieces")
    problems = [f"{step} did not happen" for step, at in [*order, *forced] if at is None]
    if commit is None:
        return [*problems, "the row was never inserted"]
    known = [(step, at) for step, at in order if at is not None]
    for (first, at), (second, then) in itertools.pairwise(known):
        if at > then:
            problems.append(f"{first} after {second}")
    renamed_at = order[2][1]
    if renamed_at is not None:
        problems += [f"{step} before rename" for step, at in forced if at is not None and at < renamed_at]
    happened = [(step, at) for step, at in [*order, *forced] if at is not None]
    problems += [f"{step} after the row was inserted" for step, at in happened if at > commit]
    return problems
