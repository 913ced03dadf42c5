"""The Swift client against the fake's faults: what is acknowledged is there, whole, whatever the proxies did."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable

import pytest

from longhaul.stores.content import Digests, read_verified
from longhaul.stores.interface import Corrupt, ObjectMissing, StoreError
from longhaul.stores.swift import SwiftStore
from tests.fake_swift import HOSTS, KEY, USER, FakeSwift, Fault

MIB = 1 << 20
SMALL = os.urandom(100_000)
LARGE = os.urandom(5 * MIB + 17)


def on_swift(
    test: Callable[[FakeSwift, SwiftStore], Awaitable[None]], *, proxies: int = 2, patience: float = 5.0, key: str = KEY
) -> None:
    """Run a test with a store on fresh proxies; half a minute is more than any needs."""

    async def run() -> None:
        async with asyncio.timeout(30), FakeSwift(proxies) as swift:
            store = SwiftStore(swift.urls, user=USER, key=key, container="longhaul", patience=patience)
            try:
                await test(swift, store)
            finally:
                await store.close()

    asyncio.run(run())


async def put(store: SwiftStore, name: str, data: bytes, batch: int = MIB) -> None:
    """Write in batches, as a receiver does."""
    sink = store.sink(name)
    try:
        for start in range(0, len(data), batch):
            await sink.write(data[start : start + batch])
        await sink.close()
    except BaseException:
        await sink.abort()
        raise


async def read(store: SwiftStore, name: str, data: bytes, start: int = 0, length: int | None = None) -> bytes:
    """Read verified against the digests of `data`."""
    digests = Digests()
    digests.update(data)
    parts = read_verified(store, name, len(data), digests.value(), start=start, length=length)
    return b"".join([part async for part in parts])


def stored(swift: FakeSwift, name: str) -> bytes | None:
    return swift.cluster.find(f"longhaul/{name}")


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["whole", "streamed"])
def test_what_was_written_can_be_read(data: bytes) -> None:
    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        await put(store, "a/b", data)
        assert await read(store, "a/b", data) == data
        assert await read(store, "a/b", data, 70_000, 1_000) == data[70_000:71_000]
        assert swift.cluster.chunked == (data is LARGE), "a piece of one batch has a length, a longer one is streamed"

    on_swift(test)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.UNAVAILABLE,
        Fault.UNAVAILABLE_LATE,
        Fault.ONE_COPY,
        Fault.CUT_BODY,
        Fault.LOSE_ANSWER,
        Fault.FORGET_TOKENS,
        Fault.WRONG_ETAG,
    ],
)
def test_a_small_piece_is_sent_again(fault: Fault) -> None:
    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        await put(store, "before", b"x")
        swift.cluster.faults.append(fault)
        await put(store, "a", SMALL)
        assert stored(swift, "a") == SMALL
        assert not swift.cluster.faults, "the fault was met"
        swift.cluster.hosts[0].clear()
        assert await read(store, "a", SMALL) == SMALL, "what was stored outlives the loss of any one host"

    on_swift(test)


def test_a_piece_that_never_gets_its_quorum_is_an_error() -> None:
    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        await put(store, "before", b"x")
        swift.cluster.faults += [Fault.ONE_COPY] * 100
        with pytest.raises(StoreError, match="storing a"):
            await put(store, "a", SMALL)
        assert stored(swift, "a") == SMALL, "it can be seen, and does not count"

    on_swift(test, patience=0.5)


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.FORGET_TOKENS])
def test_a_stream_is_begun_again_before_its_first_byte(fault: Fault) -> None:
    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        await put(store, "before", b"x")
        swift.cluster.faults.append(fault)
        await put(store, "a", LARGE)
        assert stored(swift, "a") == LARGE

    on_swift(test)


@pytest.mark.parametrize(
    "fault", [Fault.UNAVAILABLE_LATE, Fault.ONE_COPY, Fault.CUT_BODY, Fault.LOSE_ANSWER, Fault.WRONG_ETAG]
)
def test_a_broken_stream_is_an_error(fault: Fault) -> None:
    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        swift.cluster.faults.append(fault)
        with pytest.raises(StoreError):
            await put(store, "a", LARGE)

    on_swift(test)


def test_an_aborted_stream_leaves_nothing() -> None:
    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        sink = store.sink("a")
        for _ in range(3):
            await sink.write(bytes(MIB))
        await sink.abort()
        await asyncio.sleep(0.1)
        assert stored(swift, "a") is None

    on_swift(test)


def test_a_dead_proxy_is_passed_over() -> None:
    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        await put(store, "before", b"x")
        await swift.stop_proxy(0)
        for number in range(4):
            await put(store, f"small{number}", SMALL)
            await put(store, f"large{number}", LARGE)
            assert await read(store, f"large{number}", LARGE) == LARGE
        assert {len(data) for data in swift.cluster.objects().values()} == {1, len(SMALL), len(LARGE)}

    on_swift(test)


def test_no_proxy_at_all_is_an_error_after_the_patience() -> None:
    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        await put(store, "before", b"x")
        for number in range(2):
            await swift.stop_proxy(number)
        with pytest.raises(StoreError, match="storing a"):
            await put(store, "a", SMALL)

    on_swift(test, patience=0.5)


def test_a_wrong_key_says_so() -> None:
    async def test(_: FakeSwift, store: SwiftStore) -> None:
        with pytest.raises(StoreError, match="its key is wrong"):
            await put(store, "a", SMALL)

    on_swift(test, patience=0, key="guessed")


@pytest.mark.parametrize("fault", [Fault.FLIP_BYTE, Fault.CUT_ANSWER, Fault.UNAVAILABLE, Fault.FORGET_TOKENS])
def test_reading_goes_on_at_another_copy(fault: Fault) -> None:
    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        await put(store, "a", LARGE)
        swift.cluster.faults += [fault, fault]
        assert await read(store, "a", LARGE) == LARGE
        assert not swift.cluster.faults

    on_swift(test)


def test_damage_of_all_copies_is_never_delivered() -> None:
    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        await put(store, "a", LARGE)
        damaged = bytearray(LARGE)
        damaged[2_000_000] ^= 1
        swift.cluster.put("longhaul/a", bytes(damaged), HOSTS)
        assert await read(store, "a", LARGE, 0, MIB) == LARGE[:MIB], "the undamaged part can be had"
        with pytest.raises(Corrupt):
            await read(store, "a", LARGE)

    on_swift(test)


def test_missing_objects() -> None:
    async def test(_: FakeSwift, store: SwiftStore) -> None:
        with pytest.raises(ObjectMissing):
            await read(store, "nothing", b"x")
        await store.delete("nothing")

    on_swift(test)


def test_listing_goes_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longhaul.stores.swift.LISTING", 3)

    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        names = [f"uploads/u/{number:02}" for number in range(7)]
        for name in [*names, "results/x", "uploads/v"]:
            await put(store, name, name.encode())
        assert [entry.name async for entry in store.list("uploads/u/")] == names
        assert [entry.size async for entry in store.list("results/")] == [9]
        await store.delete(names[0])
        assert stored(swift, names[0]) is None
        assert [entry.name async for entry in store.list("uploads/u/")] == names[1:]

    on_swift(test)


def test_a_name_that_is_taken_by_other_bytes_is_an_error() -> None:
    async def test(swift: FakeSwift, store: SwiftStore) -> None:
        await put(store, "a", SMALL)
        await put(store, "a", SMALL)
        for other in (SMALL[::-1], LARGE):
            with pytest.raises(StoreError):
                await put(store, "a", other)
        assert stored(swift, "a") == SMALL
        assert hashlib.sha256(await read(store, "a", SMALL)).digest() == hashlib.sha256(SMALL).digest()

    on_swift(test)
