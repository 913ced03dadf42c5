"""The load test's own judgement: it counts what a site does right, and sees each thing that a site may do wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from aiohttp import web

from ops.access import Access
from ops.errors import Exit, Failure
from ops.load import profile as profiles
from ops.load import report, upload, visitors
from ops.load.content import BLOCK, Content
from ops.load.measure import Measure, RequestKind, quantile
from ops.load.profile import GB, KB, PROFILES, Group, Profile
from ops.load.run import Load
from ops.tasks.load import load

SMALL = Profile("a test", (Group(2, 300 * KB),), pages_per_second=0, seconds=20)


@dataclass
class FakeSite:
    """A tus server in memory, and the ways in which it can be wrong."""

    interrupt_at: int = 0
    forget: int = 0
    create_status: int = 201
    head_status: int = 200
    patch_status: int = 204
    page_status: int = 200
    state: str = "done"
    spoil: bool = False
    received: dict[str, bytearray] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    _interrupted: set[str] = field(default_factory=set)

    async def create(self, request: web.Request) -> web.Response:
        name = str(len(self.received))
        self.received[name] = bytearray()
        self.sizes[name] = int(request.headers["Upload-Length"])
        return web.Response(status=self.create_status, headers={"Location": f"/files/key/{name}"})

    async def head(self, request: web.Request) -> web.Response:
        received = self.received[request.match_info["name"]]
        if self.forget:
            del received[-self.forget :]
        return web.Response(status=self.head_status, headers={"Upload-Offset": str(len(received))})

    async def patch(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        received = self.received[name]
        assert int(request.headers["Upload-Offset"]) == len(received)
        async for block in request.content.iter_any():
            received += block
            if self.interrupt_at and len(received) >= self.interrupt_at and name not in self._interrupted:
                self._interrupted.add(name)
                return web.Response(status=423, headers={"Connection": "close"})
        return web.Response(status=self.patch_status, headers={"Upload-Offset": str(len(received))})

    async def delete(self, request: web.Request) -> web.Response:
        self.removed.append(request.match_info["name"])
        return web.Response(status=204)

    async def api(self, request: web.Request) -> web.Response:
        content = bytes(self.received[request.match_info["name"]])
        sha256 = hashlib.sha256(content + (b"x" if self.spoil else b"")).hexdigest()
        return web.json_response({"state": self.state, "sha256": sha256})

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(status=self.page_status)

    @contextmanager
    def served(self) -> Iterator[Access]:
        """The site on a port of the loopback interface."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/files/", self.create)
        app.router.add_route("HEAD", "/files/key/{name}", self.head)
        app.router.add_patch("/files/key/{name}", self.patch)
        app.router.add_delete("/files/key/{name}", self.delete)
        app.router.add_get("/api/uploads/{name}", self.api)
        app.router.add_get("/", self.page)
        loop = asyncio.new_event_loop()
        runner = web.AppRunner(app)

        async def start() -> str:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return f"http://127.0.0.1:{runner.addresses[0][1]}"

        url = loop.run_until_complete(start())
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield Access(url, f"{url}/files/", "", "token")
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.run_until_complete(runner.cleanup())
            loop.close()


def measured(site: FakeSite, profile: Profile = SMALL) -> Measure:
    with site.served() as access, Load(access, profile, name="test") as running:
        return running.wait()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "RETRY_SECONDS", (0.0, 0.01, 0.02))
    monkeypatch.setattr(upload, "AFTER_CUT_SECONDS", 0.0)
    monkeypatch.setattr(visitors, "PAUSE_SECONDS", 0.01)


def test_what_arrives_is_counted_and_removed_afterwards() -> None:
    site = FakeSite()
    found = measured(site, replace(SMALL, pages_per_second=50))
    assert (found.created, found.done, found.failed, found.interruptions) == (2, 2, 0, [])
    assert found.sent.total() == SMALL.size
    assert found.latency(RequestKind.PAGE).requests >= 2
    assert sorted(site.removed) == ["0", "1"]


def test_an_interrupted_upload_goes_on_where_it_was() -> None:
    found = measured(FakeSite(interrupt_at=100 * KB))
    assert (found.created, found.done, found.failed) == (2, 2, 0)
    assert len(found.interruptions) == len(found.resumed_after) == 2


def test_clients_cut_and_pause_as_often_as_the_profile_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "STALL_SECONDS", 0.1)
    found = measured(FakeSite(), replace(SMALL, groups=(Group(2, 300 * KB, rate=1_000_000, stalls=2, cuts=3),)))
    assert (found.done, found.failed, found.cuts, found.stalls) == (2, 0, 6, 4)
    assert not found.interruptions, "cuts of the client's own are none of the site's"


def test_a_line_is_as_slow_as_it_shall_be_until_there_is_hurry() -> None:
    slow = replace(SMALL, groups=(Group(1, 300 * KB, rate=1 * KB),))
    with FakeSite().served() as access, Load(access, slow, name="test") as running:
        threading.Event().wait(1)
        assert 0 < running.measure.sent.total() < 5 * KB
        assert running.running
        running.hurry()
        assert running.wait(10).done == 1
        assert not running.running, "who asks at the end whether users were at work must hear that they left"


@pytest.mark.parametrize(
    ("site", "says"),
    [
        (FakeSite(create_status=503), "creation answered 503"),
        (FakeSite(interrupt_at=1, head_status=404), "HEAD answered 404"),
        (FakeSite(patch_status=500), "answered 500"),
        (FakeSite(patch_status=423, forget=10**9), "gave up at byte 0"),
        (FakeSite(state="failed"), "ended as 'failed'"),
        (FakeSite(spoil=True), "the worker saw SHA-256"),
    ],
)
def test_what_a_site_does_wrong_is_a_failure(site: FakeSite, says: str) -> None:
    found = measured(site)
    assert found.done == 0
    assert found.failed == 2
    assert says in found.failures[0][1]


def test_an_offset_that_goes_back_is_a_loss() -> None:
    class Forgetful(FakeSite):
        """Acknowledges what it then does not have."""

        async def head(self, request: web.Request) -> web.Response:
            answer = await super().head(request)
            self.interrupt_at += 50 * KB
            self._interrupted.clear()
            self.forget = 200 * KB
            return answer

    found = measured(Forgetful(interrupt_at=150 * KB), replace(SMALL, groups=(Group(1, 300 * KB),)))
    assert (found.done, found.failed) == (0, 1)
    assert "bytes are lost" in found.failures[0][1]


def test_a_page_that_fails_is_counted() -> None:
    found = measured(FakeSite(page_status=502), replace(SMALL, pages_per_second=50))
    assert found.failed > 0
    assert "page / answered 502" in found.failures[0][1]


def test_a_load_ends_at_its_bound() -> None:
    endless = Profile("a test", (Group(1, 1 * GB, rate=1 * KB),), pages_per_second=0, seconds=1)
    with FakeSite().served() as access, Load(access, endless, name="test") as running, pytest.raises(Failure) as caught:
        running.wait()
    assert "did not finish within 1 s" in caught.value.message


def test_content_is_the_same_from_wherever_it_is_read() -> None:
    content = Content(2 * BLOCK + 100, "seed")
    whole = b"".join(content.read(offset, BLOCK) for offset in range(0, content.size, BLOCK))
    assert len(whole) == content.size
    assert content.read(BLOCK - 10, 100) == whole[BLOCK - 10 : BLOCK], "no further than a block"
    assert content.read(2 * BLOCK + 90, 100) == whole[-10:]
    assert hashlib.sha256(whole).hexdigest() == content.sha256()
    assert Content(content.size, "other").sha256() != content.sha256()


def test_quantiles_are_nearest_ranks() -> None:
    values = [float(value) for value in range(1, 11)]
    assert [quantile(values, fraction) for fraction in (0.0, 0.5, 0.95, 1.0)] == [1, 5, 10, 10]


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_bounded(name: str) -> None:
    profile = PROFILES[name]
    assert profile.clients <= 500
    assert profile.size <= 5 * GB
    assert profile.seconds <= 1800
    for group in profile.groups:
        needed = (group.size / group.rate if group.rate else 0) + group.stalls * upload.STALL_SECONDS
        assert needed < profile.seconds, f"{group} cannot end in time"


def test_the_report_is_a_picture_and_json(tmp_path: Path) -> None:
    found = measured(FakeSite(interrupt_at=100 * KB), replace(SMALL, pages_per_second=20))
    text, picture = report.save(tmp_path / "new", "a title", SMALL, found)
    said = json.loads(text.read_text())
    assert (said["uploads_done"], said["interruptions"], said["failed"]) == (2, 2, 0)
    assert sum(said["bytes_per_second"]) == said["bytes_sent"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_unknown_profile_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(Failure) as caught:
        profiles.named("nothing")
    assert caught.value.code == Exit.USAGE
    assert "deploy" in caught.value.hint


def test_any_environment_but_the_lab_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load.body(None, env="prod", confirm="staging")
    assert caught.value.code == Exit.USAGE
    assert "'staging' is not 'prod'" in capsys.readouterr().err
