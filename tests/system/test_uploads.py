"""Uploads by real clients through the virtual IP, while what carries them breaks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.clients import Client, random_file
from tests.support.site import ClientLine, Site
from tests.support.waiting import until

MB = 1_000_000
# Fast enough for a user with fibre, slow enough for a test to do something in the middle.
LINE = "240mbit"
# What the kernels and HAProxy between client and web host may hold while the web service is busy storing a piece: the
# client's bytes are acknowledged by the load balancer then, and no power cut of a web host can be blamed for them.
ON_THE_WAY = 12 * MB


def least_kept(site: Site, sent: int) -> int:
    """What must be kept of `sent` bytes when a connection or a host ends: all but a piece that was not full."""
    return sent - int(site.environment.variable("policy_piece_bytes")) - ON_THE_WAY


def sent(client: Client, line: ClientLine) -> int:
    """The byte of the file up to which the client has sent: where its present PATCH began, and what went out since."""
    return (client.offsets[-1] if client.offsets else 0) + line.acknowledged()


def wait_sent(client: Client, line: ClientLine, count: int) -> None:
    """Wait until the client has sent so much of the file."""
    client.wait_until(lambda: sent(client, line) >= count, f"{count // MB} MB to be sent", 60)


def wait_resumed(client: Client, heads: int) -> int:
    """Wait for an answer to a HEAD beyond the first `heads` ones; returns the offset it told."""
    client.wait_until(lambda: len(client.offsets) > heads, "the client to ask where to go on", 60)
    return client.offsets[heads]


def assert_whole(site: Site, client: Client, file: Path, sha256: str) -> None:
    """The one upload of `file` is what the worker saw and what is downloaded."""
    client.wait_success(120)
    said = site.wait_done(client.upload_id)
    assert said["sha256"] == sha256, "the worker saw other bytes than the source has"
    assert said["size"] == said["offset"] == file.stat().st_size
    assert site.download_sha256(said["content_url"]) == sha256
    created = site.sql(f"select id from uploads where filename = '{file.name}'")  # noqa: S608  # the test's own name
    assert created == [[client.upload_id]], "the client made more than one upload"
    assert len(client.of("request", method="POST")) == 1


@pytest.mark.parametrize("kind", ["tus-js-client", "tuspy"])
def test_an_upload_outlives_its_connection_and_its_web_host(site: Site, kind: str, tmp_path: Path) -> None:
    """300 MB: a third through, the connection dies unnoticed; two thirds through, the web host loses its power."""
    file = tmp_path / f"{kind}-{time.time_ns()}.bin"
    sha256 = random_file(file, 300 * MB, seed=1)
    with site.line("sender", LINE) as line, line.start(kind, file) as client:
        wait_sent(client, line, 100 * MB)
        reached = sent(client, line)
        line.cut()
        client.wait_until(lambda: bool(client.of("request", method="HEAD")), "the client to notice the cut", 30)
        line.mend()
        first = wait_resumed(client, 0)
        assert least_kept(site, reached) <= first < file.stat().st_size
        assert first > 0
        site.measured.append(f"{kind}: of {reached:,} bytes sent at the cut, {first:,} were kept")

        wait_sent(client, line, 200 * MB)
        serving = until(lambda: site.committed(client.upload_id), "a piece in the logs", 10)[-1]["server"]
        heads = len(client.offsets)
        reached = sent(client, line)
        began = time.monotonic()
        site.power_cut(serving)
        second = wait_resumed(client, heads)
        assert least_kept(site, reached) <= second < file.stat().st_size
        assert second >= first
        site.measured.append(
            f"{kind}: of {reached:,} bytes sent at the power cut, {second:,} were kept;"
            f" it went on after {time.monotonic() - began:.1f} s"
        )

        assert_whole(site, client, file, sha256)
        # The dead host's journal is out of reach, so all these lines are of the others.
        after = [piece for piece in site.committed(client.upload_id) if piece["start"] >= second]
        assert after, f"no web host has logged a piece after {serving} was cut off at {second}"
        assert {piece["server"] for piece in after} == set(site.group("web")) - {serving}
        assert after[-1]["start"] + after[-1]["length"] == file.stat().st_size


def test_no_second_upload_when_nothing_answers(site: Site, tmp_path: Path) -> None:
    """All web services go away for some seconds: the client must not be told anything that makes it begin anew."""
    file = tmp_path / f"nobody-{time.time_ns()}.bin"
    sha256 = random_file(file, 120 * MB, seed=2)
    with site.line("patient", LINE) as line, line.start("tus-js-client", file) as client:
        wait_sent(client, line, 40 * MB)
        for host in site.group("web"):
            site.run(host, "systemctl", "kill", "--signal=SIGKILL", "longhaul-web.service")
            site.run(host, "systemctl", "stop", "longhaul-web.service")
        # Longer than the first three of the client's waits (0, 1 and 3 s), so that it asks a site without web servers.
        client.wait_until(
            lambda: len(client.of("request", method="HEAD")) >= 3, "the client to ask a site that is away", 30
        )
        for host in site.group("web"):
            site.run(host, "systemctl", "start", "longhaul-web.service")
        assert_whole(site, client, file, sha256)
        refused = {e["status"] for e in client.of("response", method="HEAD")}
        assert refused <= {200, 423}, f"HEAD was answered with {refused}"


def test_two_tabs_on_one_upload_take_turns(site: Site, tmp_path: Path) -> None:
    """Two windows send one upload at the same time: neither starves, and what arrives is the file."""
    file = tmp_path / f"tabs-{time.time_ns()}.bin"
    sha256 = random_file(file, 100 * MB, seed=3)
    rate = "80mbit"
    with site.line("tab1", rate) as line1, site.line("tab2", rate) as line2:
        first = line1.start("tus-js-client", file)
        wait_sent(first, line1, 5 * MB)
        second = line2.start("tus-js-client", file, url=first.url)
        first.wait_success(120)
        second.wait_success(60)
        assert_whole(site, first, file, sha256)
        turns: list[int] = []
        for piece in site.committed(first.upload_id):
            if not turns or turns[-1] != piece["epoch"]:
                turns.append(piece["epoch"])
        assert turns == sorted(turns)
        for name, tab in (("first", first), ("second", second)):
            sending = [e["offset"] for e in tab.of("response", method="HEAD", status=200)]
            assert len(set(sending)) >= 2, f"the {name} tab went on from {sending}:\n{tab}"
            assert not tab.of("error")
