"""Simulated users who look at pages while others upload."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus

import aiohttp

from ops.load.measure import Measure, RequestKind

PAGE = "/"
PAGES_PER_VISIT = 5
PAUSE_SECONDS = 1.0
ANSWER = aiohttp.ClientTimeout(total=10)


async def visit(session: Callable[[], aiohttp.ClientSession], url: str, measure: Measure) -> None:
    """One user: opens a connection of its own and asks for some pages, with a pause before each further one."""
    async with session() as http:
        for number in range(PAGES_PER_VISIT):
            if number:
                await asyncio.sleep(PAUSE_SECONDS)
            began = measure.now()
            try:
                async with http.get(f"{url}{PAGE}", timeout=ANSWER) as answer:
                    await answer.read()
                    if answer.status != HTTPStatus.OK:
                        measure.failure(f"page {PAGE} answered {answer.status}")
                        continue
            except (aiohttp.ClientError, TimeoutError) as error:
                measure.failure(f"page {PAGE} got no answer: {error!r}")
                continue
            measure.request(RequestKind.PAGE, began)


async def visits(
    session: Callable[[], aiohttp.ClientSession], url: str, measure: Measure, *, per_second: float, ended: asyncio.Event
) -> None:
    """Start new users so that `per_second` pages are requested, however long the answers take."""
    every = PAGES_PER_VISIT / per_second
    due = time.monotonic()
    async with asyncio.TaskGroup() as users:
        while not ended.is_set():
            users.create_task(visit(session, url, measure))
            due += every
            await asyncio.sleep(max(0.0, due - time.monotonic()))
