"""Faults that are rarer than a power cut, or take longer to show: a frozen host, a full disk, a partition."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.clients import Client, random_file
from tests.support.site import ClientLine, Site
from tests.support.waiting import until

MB = 1_000_000
SIZE = 200 * MB


def begun(site: Site, line: ClientLine, directory: Path, name: str) -> tuple[Client, Path, str]:
    """An upload of SIZE bytes that is under way: the client, its file and the file's SHA-256."""
    file = directory / f"{name}-{time.time_ns()}.bin"
    sha256 = random_file(file, SIZE, seed=len(name))
    client = line.start("tus-js-client", file)
    client.wait_until(lambda: line.acknowledged() > SIZE // 4, "a quarter to be sent", 60)
    return client, file, sha256


def assert_whole(site: Site, client: Client, sha256: str, seconds: float = 180) -> None:
    """The upload completes, is processed, and is what was sent; the client began it once."""
    client.wait_success(seconds)
    said = site.wait_done(client.upload_id, 180)
    assert said["sha256"] == sha256
    assert site.download_sha256(said["content_url"]) == sha256
    assert client.offsets == sorted(client.offsets), "an offset that a client was told went back"
    assert len(client.of("request", method="POST")) == 1


def test_a_host_that_was_frozen_cannot_commit_any_more(site: Site, tmp_path: Path) -> None:
    """Its clients go on elsewhere; when it wakes up in the middle of a piece, that piece must not count."""
    with site.line("freezer", "120mbit") as line:
        client, _, sha256 = begun(site, line, tmp_path, "frozen")
        frozen = until(lambda: site.committed(client.upload_id), "a piece in the logs", 20)[-1]["server"]
        heads = len(client.offsets)
        site.lab.freeze(frozen)
        try:
            client.wait_until(lambda: len(client.offsets) > heads, "the client to go on elsewhere", 60)
            client.wait_until(lambda: client.offsets[-1] + line.acknowledged() > SIZE // 2, "half of it to be sent", 60)
        finally:
            site.lab.thaw(frozen)
        assert_whole(site, client, sha256)
        resumed = client.offsets[heads]
        late = [piece for piece in site.committed(client.upload_id) if piece["start"] >= resumed]
        epochs = [piece["epoch"] for piece in late]
        assert epochs == sorted(epochs), f"a piece of an old epoch was committed after a newer one: {late}"


def test_uploads_go_on_with_a_full_disk(site: Site, tmp_path: Path) -> None:
    """One storage host has no byte left: pieces go to the others, and nothing is lost."""
    full = site.group("storage")[-1]
    site.hosts[full].fill_disk()
    with site.line("filler", "120mbit") as line:
        client, _, sha256 = begun(site, line, tmp_path, "full")
        assert_whole(site, client, sha256)
    site.hosts[full].free_disk()


def test_a_primary_that_is_cut_off_from_its_standbys_loses_nothing(site: Site, tmp_path: Path) -> None:
    """The primary reaches no other data host, but the web hosts still reach it: it must not acknowledge alone."""
    with site.line("parted", "80mbit") as line:
        client, _, sha256 = begun(site, line, tmp_path, "parted")
        primary = site.primary()
        others = [host for host in site.group("database") if host != primary]
        for host in others:
            site.lab.partition(primary, host)
        promoted = until(
            lambda: [host for host in others if _is_primary(site, host)], "another primary beyond the partition", 90
        )
        assert len(promoted) == 1
        assert_whole(site, client, sha256, 240)
        site.lab.heal()
        until(lambda: not _is_primary(site, primary), "the old primary to follow the new one", 90)


def _is_primary(site: Site, host: str) -> bool:
    answer = site.lab.exec(host, ["runuser", "-u", "postgres", "--", "psql", "-XAtc", "select pg_is_in_recovery()"])
    return answer.stdout.strip() == "f"
