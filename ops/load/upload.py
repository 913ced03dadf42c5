"""A tus 1.0 client (https://tus.io/protocols/resumable-upload) that uploads at a chosen speed and counts what happens.

It retries as tus-js-client does by default: after 0, 1, 3 and 5 s, and from 0 s again whenever bytes were acknowledged.
After the last retry it has failed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import time
from collections.abc import AsyncIterator
from http import HTTPStatus

import aiohttp
from yarl import URL

from ops.load.content import Content
from ops.load.measure import Measure, RequestKind
from ops.load.profile import Group

RETRY_SECONDS = (0.0, 1.0, 3.0, 5.0)
STALL_SECONDS = 20.0
"""Shorter than the time for which the application waits for a client that sends nothing (policy_idle_seconds)."""
AFTER_CUT_SECONDS = 1.0
ANSWER_SECONDS = 75.0
"""Longer than the application holds a HEAD."""
DONE_SECONDS = 600.0
WRITES_PER_SECOND = 5
LARGEST_WRITE = 1 << 18
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}
GO_ON = {HTTPStatus.LOCKED, HTTPStatus.CONFLICT}
_PASSED = {"receiving", "queued", "processing"}


class _Failed(Exception):
    """This upload cannot go on; the message says why."""


class _Cut(Exception):
    """The client breaks its own connection."""


class Upload:
    """The upload of one file. When `hurry` is set, the rest is sent at full speed."""

    def __init__(
        self, name: str, group: Group, *, url: str, http: aiohttp.ClientSession, measure: Measure, hurry: asyncio.Event
    ) -> None:
        self.name = name
        self.acknowledged = 0
        self._group = group
        self._url = url
        self._http = http
        self._measure = measure
        self._hurry = hurry
        self._content = Content(group.size, name)
        self._location = ""
        self._furthest = 0
        self._interrupted: float | None = None
        dice = random.Random(name)  # noqa: S311 - the same places for the same name
        self._cuts = sorted(dice.randrange(1, group.size) for _ in range(group.cuts))
        self._stalls = sorted(dice.randrange(1, group.size) for _ in range(group.stalls))

    async def run(self) -> None:
        """Upload, and wait until the file was processed. Failures are counted, not raised."""
        try:
            await self._create()
            await self._send_all()
            await self._processed()
            self._measure.done += 1
        except _Failed as failure:
            self._measure.failure(f"{self.name}: {failure}")

    async def remove(self) -> None:
        """Delete the upload from the site, if there is one."""
        if self._location:
            async with self._http.delete(self._location, headers=TUS):
                pass

    # --- Steps --------------------------------------------------------------------------------------------------------

    async def _create(self) -> None:
        headers = TUS | {
            "Upload-Length": str(self._group.size),
            "Upload-Metadata": f"filename {base64.b64encode(self.name.encode()).decode()}",
        }
        began = self._measure.now()
        try:
            async with self._http.post(f"{self._url}/files/", headers=headers, timeout=_answer_within()) as answer:
                if answer.status != HTTPStatus.CREATED:
                    raise _Failed(f"creation answered {answer.status} {await _text(answer)}")
                # Relative to the URL that was asked, RFC 9110 10.2.2.
                self._location = str(answer.url.join(URL(answer.headers["Location"])))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Failed(f"creation got no answer: {error!r}") from error
        self._measure.request(RequestKind.CREATE, began)
        self._measure.created += 1

    async def _send_all(self) -> None:
        """Send PATCH requests until everything is acknowledged; after each one that ended early, ask for the offset."""
        complete, attempt = await self._patch(), 0
        while not complete:
            if attempt == len(RETRY_SECONDS):
                raise _Failed(f"gave up at byte {self.acknowledged} after {attempt} attempts without progress")
            await asyncio.sleep(RETRY_SECONDS[attempt])
            before = self.acknowledged
            complete = await self._ask() and (self.acknowledged == self._group.size or await self._patch())
            attempt = 0 if self.acknowledged > before else attempt + 1

    async def _patch(self) -> bool:
        """Send the file from the acknowledged offset on; returns whether the site took all of it."""
        offset = self.acknowledged
        headers = TUS | BYTES | {"Upload-Offset": str(offset), "Content-Length": str(self._group.size - offset)}
        cuts = len(self._cuts)
        try:
            # No time limit: at 5 KB/s a body takes days. The limit of the whole load ends it.
            async with self._http.patch(
                self._location, data=self._body(offset), headers=headers, timeout=_FOREVER
            ) as answer:
                if answer.status == HTTPStatus.NO_CONTENT:
                    self._acknowledge(int(answer.headers["Upload-Offset"]))
                    return True
                if answer.status not in GO_ON:
                    raise _Failed(f"PATCH at byte {offset} answered {answer.status} {await _text(answer)}")
                answer.close()  # otherwise the client would continue to send
        except (aiohttp.ClientError, OSError):
            if len(self._cuts) < cuts:
                self._measure.cuts += 1
                await asyncio.sleep(AFTER_CUT_SECONDS)
                return False
        self._interrupted = self._measure.now()
        self._measure.interruptions.append(self._interrupted)
        return False

    async def _ask(self) -> bool:
        """Send HEAD; returns whether the answer had the offset."""
        began = self._measure.now()
        try:
            async with self._http.head(self._location, headers=TUS, timeout=_answer_within()) as answer:
                if answer.status == HTTPStatus.LOCKED:
                    return False
                if answer.status != HTTPStatus.OK:
                    raise _Failed(f"HEAD answered {answer.status}: real clients start a new upload after that")
                offset = int(answer.headers["Upload-Offset"])
        except (aiohttp.ClientError, OSError):
            # The connection was closed without an answer, or refused: a client asks again.
            return False
        self._measure.request(RequestKind.OFFSET, began)
        if self._interrupted is not None:
            self._measure.resumed_after.append(self._measure.now() - self._interrupted)
            self._interrupted = None
        self._measure.sent_again += max(0, self._furthest - offset)
        self._acknowledge(offset)
        return True

    def _acknowledge(self, offset: int) -> None:
        if offset < self.acknowledged:
            raise _Failed(f"bytes are lost: {self.acknowledged} were acknowledged, now the offset is {offset}")
        self.acknowledged = offset

    async def _body(self, offset: int) -> AsyncIterator[bytes]:
        """The rest of the file at the line's speed, with this client's pauses; raises _Cut where the client cuts."""
        rate = self._group.rate
        largest = min(LARGEST_WRITE, max(1, rate // WRITES_PER_SECOND)) if rate else LARGEST_WRITE
        due = time.monotonic()
        while offset < self._group.size:
            if _reached(self._cuts, offset):
                raise _Cut
            while _reached(self._stalls, offset):
                self._measure.stalls += 1
                await self._pause(STALL_SECONDS)
                due = time.monotonic()
            places = [place - offset for place in (*self._cuts[:1], *self._stalls[:1])]
            block = self._content.read(offset, min([LARGEST_WRITE if self._hurry.is_set() else largest, *places]))
            yield block
            offset += len(block)
            self._furthest = max(self._furthest, offset)
            self._measure.bytes_sent(len(block))
            if rate:
                due += len(block) / rate
                await self._pause(due - time.monotonic())

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless `hurry` is set."""
        if seconds > 0 and not self._hurry.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), seconds)

    async def _processed(self) -> None:
        """Wait for the worker, and compare what it saw with what was sent."""
        sha256 = await asyncio.to_thread(self._content.sha256)
        url = f"{self._url}/api/uploads/{self._location.rpartition('/')[2]}"
        deadline = time.monotonic() + DONE_SECONDS
        while True:
            began = self._measure.now()
            try:
                async with self._http.get(url, timeout=_answer_within()) as answer:
                    if answer.status != HTTPStatus.OK:
                        raise _Failed(f"GET {url} answered {answer.status} {await _text(answer)}")
                    said = await answer.json()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _Failed(f"GET {url} got no answer: {error!r}") from error
            self._measure.request(RequestKind.PAGE, began)
            if said["state"] == "done":
                break
            if said["state"] not in _PASSED:
                raise _Failed(f"its processing ended as '{said['state']}'")
            if time.monotonic() > deadline:
                raise _Failed(f"still '{said['state']}' after {DONE_SECONDS:.0f} s")
            await asyncio.sleep(1)
        if said["sha256"] != sha256:
            raise _Failed(f"the worker saw SHA-256 {said['sha256']}, sent was {sha256}")


_FOREVER = aiohttp.ClientTimeout(total=None, sock_connect=10)


def _answer_within() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=ANSWER_SECONDS)


def _reached(places: list[int], offset: int) -> bool:
    """Whether the upload has passed the first of `places`; if so, removes that place."""
    if places and places[0] <= offset:
        places.pop(0)
        return True
    return False


async def _text(answer: aiohttp.ClientResponse) -> str:
    return " ".join((await answer.text(errors="replace")).split())[:150]
