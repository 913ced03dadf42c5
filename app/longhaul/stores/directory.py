"""A store in a local directory, as durable as its filesystem.

An object is written to `tmp/`, forced to disk and renamed to its place. Then its folder and the folders above it are
forced to disk, because any of them may be new. Only then `close` returns. All blocking calls run in a few threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from longhaul.stores.interface import Entry, ObjectMissing, StoreError

READ_BYTES = 1 << 20
TEMPORARY = "tmp"
LEFT_BEHIND_SECONDS = 86400
"""A temporary file of this age was left by a crash: no piece is open for longer than a minute."""


class DirectoryStore:
    """Objects as files below `root`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="directory-store")
        self._prepared = False

    def sink(self, name: str) -> DirectorySink:
        """See Store."""
        return DirectorySink(self, self._path(name))

    async def read(self, name: str, start: int, length: int) -> AsyncIterator[bytes]:
        """See Store."""
        try:
            file = await self.run(self._path(name).open, "rb")
        except FileNotFoundError:
            raise ObjectMissing(f"{name} is not in {self.root}") from None
        try:
            await self.run(file.seek, start)
            while length > 0 and (data := await self.run(file.read, min(READ_BYTES, length))):
                length -= len(data)
                yield data
        finally:
            file.close()

    async def delete(self, name: str) -> None:
        """See Store."""
        await self.run(self._path(name).unlink, True)

    async def close(self) -> None:
        """See Store."""
        self._threads.shutdown(wait=False)

    async def run[**P, T](self, function: Callable[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        """Call in a thread; an OSError other than a missing file becomes StoreError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.root}: {error}") from error

    def prepare(self) -> None:
        """Create the temporary folder, and delete what crashed processes left there. Only the first call does this."""
        if self._prepared:
            return
        folder = self.root / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > LEFT_BEHIND_SECONDS:
                    path.unlink()
        self._prepared = True

    def sync_file(self, file: BinaryIO) -> None:
        """Force a file's bytes and size to disk."""
        os.fdatasync(file.fileno())

    def sync_folder(self, folder: Path) -> None:
        """Force a folder's entries to disk."""
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, name: str) -> Path:
        path = self.root / name
        if ".." in path.parts or not name or name.startswith(("/", f"{TEMPORARY}/")):
            raise ValueError(f"{name!r} cannot name an object")
        return path

    def _entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        # Only the folder that the prefix names, not the whole store.
        folder = self.root / prefix.rpartition("/")[0]
        for place, _, files in os.walk(folder):
            for file in files:
                path = Path(place, file)
                name = path.relative_to(self.root).as_posix()
                if name.startswith(prefix) and not name.startswith(f"{TEMPORARY}/"):
                    yield name, path.stat().st_size

    async def list(self, prefix: str) -> AsyncIterator[Entry]:
        """See Store."""
        for name, size in await self.run(lambda: sorted(self._entries(prefix))):
            yield Entry(name, size)


class DirectorySink:
    """One file on its way in; see Sink."""

    def __init__(self, store: DirectoryStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._temporary = store.root / TEMPORARY / uuid.uuid4().hex
        self._file: BinaryIO | None = None
        self._running: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """See Sink."""
        await self._run(self._write, data)

    async def close(self) -> None:
        """See Sink."""
        await self._run(self._close)

    async def abort(self) -> None:
        """See Sink."""
        if self._running is not None:
            # A thread still runs after its caller was cancelled.
            await asyncio.wait({self._running})
        await self._run(self._abort)

    async def _run(self, step: Callable[..., None], *arguments: bytes) -> None:
        self._running = asyncio.ensure_future(self._store.run(functools.partial(step, *arguments)))
        await asyncio.shield(self._running)

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._store.prepare()
            # Unbuffered: fdatasync then covers all that was written.
            self._file = self._temporary.open("xb", buffering=0)
        return self._file

    def _write(self, data: bytes) -> None:
        file = self._open()
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]

    def _close(self) -> None:
        file = self._open()
        self._store.sync_file(file)
        file.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.rename(self._path)
        for folder in self._path.parents:
            self._store.sync_folder(folder)
            if folder == self._store.root:
                break

    def _abort(self) -> None:
        if self._file is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
