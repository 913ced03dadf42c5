"""Runs a load in a thread of its own, so that other things can be done meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from concurrent.futures import Future
from types import TracebackType

import aiohttp

from ops.access import Access
from ops.errors import Failure
from ops.load.measure import Measure
from ops.load.profile import Profile
from ops.load.upload import Upload
from ops.load.visitors import visits

REMOVE_SECONDS = 60.0


class Load:
    """A load on a site. It begins with the `with` block; the end of the block stops it and removes its uploads.

    To let the load finish first, call `wait` in the block.
    """

    def __init__(self, access: Access, profile: Profile, *, name: str) -> None:
        """`name` determines the names and the content of the files: the same name gives the same files."""
        self.profile = profile
        self.measure = Measure()
        self.uploads: list[Upload] = []
        self._access = access
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._hurry = asyncio.Event()
        self._ready = threading.Event()
        self._whole: asyncio.Task[None] | None = None
        self._result: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()
        self._loop.close()

    @property
    def running(self) -> bool:
        """Whether uploads are on their way, or being processed."""
        return not self._result.done()

    @property
    def acknowledged(self) -> int:
        """Bytes that the site has acknowledged, of all uploads together."""
        return sum(upload.acknowledged for upload in self.uploads)

    def hurry(self) -> None:
        """Let all clients send what is left at full speed."""
        self._loop.call_soon_threadsafe(self._hurry.set)

    def wait(self, seconds: float | None = None) -> Measure:
        """Wait until all files are processed. Raises Failure when that takes longer than the profile, or `seconds`."""
        try:
            self._result.result(seconds)
        except TimeoutError as error:
            bound = self.profile.seconds if seconds is None else seconds
            raise Failure(
                f"The load did not finish within {bound:.0f} s: "
                f"{self.measure.done} of {self.profile.clients} uploads were processed.",
                "See: ./inv status. A slower machine needs a smaller --profile.",
            ) from error
        return self.measure

    # --- In the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._ready.set()

    async def _main(self) -> None:
        async with self._session() as http:
            self.uploads = [
                Upload(
                    f"load-{self._name}-{number}-{client}.bin",
                    group,
                    url=self._access.url,
                    http=http,
                    measure=self.measure,
                    hurry=self._hurry,
                )
                for number, group in enumerate(self.profile.groups)
                for client in range(group.clients)
            ]
            self._whole = asyncio.create_task(self._all())
            self._ready.set()
            try:
                await self._whole
                self._result.set_result(None)
            except BaseException as error:  # noqa: BLE001 - goes to whoever waits for this load
                stopped = isinstance(error, asyncio.CancelledError)
                self._result.set_exception(Failure("The load was stopped.") if stopped else error)
            with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                async with asyncio.timeout(REMOVE_SECONDS):
                    await asyncio.gather(*(upload.remove() for upload in self.uploads), return_exceptions=True)

    async def _all(self) -> None:
        ended = asyncio.Event()
        async with asyncio.timeout(self.profile.seconds), asyncio.TaskGroup() as tasks:
            if self.profile.pages_per_second:
                rate = self.profile.pages_per_second
                tasks.create_task(visits(self._session, self._access.url, self.measure, per_second=rate, ended=ended))
            await asyncio.gather(*(upload.run() for upload in self.uploads))
            ended.set()

    def _stop(self) -> None:
        if self._whole is not None:
            self._whole.cancel()

    def _session(self) -> aiohttp.ClientSession:
        """A session with connections and cookies of its own."""
        trusted = ssl.create_default_context(cafile=self._access.ca_file or None)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusted, limit=0),
            headers={"Authorization": f"Bearer {self._access.token}"},
        )


def unique() -> str:
    """A name that no other load has."""
    return str(time.time_ns() // 1_000_000)
