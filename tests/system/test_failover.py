"""The loss of a host that has a role no other host has at that moment: the site goes on by itself."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.clients import random_file
from tests.support.site import Poller, Site
from tests.support.waiting import until

MB = 1_000_000


def test_the_virtual_ip_moves_when_its_load_balancer_loses_power(site: Site, tmp_path: Path) -> None:
    """The other load balancer has it within seconds, and an upload that was under way goes on."""
    file = tmp_path / f"balancer-{time.time_ns()}.bin"
    sha256 = random_file(file, 150 * MB, seed=4)
    holder = site.holder_of_virtual_ip()
    with site.line("mover", "160mbit") as line, line.start("tus-js-client", file) as client, Poller(site) as poller:
        client.wait_until(lambda: line.acknowledged() > 50 * MB, "50 MB to be sent", 60)
        site.power_cut(holder)
        client.wait_success(60)
        until(lambda: site.holder_of_virtual_ip() != holder, "the virtual IP to move", 10)
    # keepalived notices after three advertisements. A request in that time is repeated by the client's kernel, after a
    # second and after three: the slowest answer tells more than the requests that failed.
    outage = max(poller.longest_gap, poller.slowest)
    site.measured.append(
        f"virtual IP: after a power cut of its balancer {len(poller.failures)} of {poller.asked} requests failed,"
        f" the slowest answer took {poller.slowest:.1f} s"
    )
    assert outage < 6, f"nobody answered for {outage:.1f} s: {poller.failures[:5]}"
    assert poller.asked - len(poller.failures) > 20
    said = site.wait_done(client.upload_id)
    assert said["sha256"] == sha256
    assert len(client.of("request", method="POST")) == 1


def test_no_acknowledged_byte_is_lost_with_the_database_primary(site: Site, tmp_path: Path) -> None:
    """A data host with the primary loses its power during an upload: another takes over, no offset goes back."""
    file = tmp_path / f"primary-{time.time_ns()}.bin"
    sha256 = random_file(file, 300 * MB, seed=5)
    primary = site.primary()
    with site.line("writer", "120mbit") as line, line.start("tus-js-client", file) as client:
        client.wait_until(lambda: line.acknowledged() > 60 * MB, "60 MB to be sent", 60)
        before = until(lambda: site.committed(client.upload_id), "a piece that counts", 20)[-1]
        site.power_cut(primary)
        # A standby is promoted when the primary's lease has ended, and not before.
        limit = sum(
            int(site.environment.variable(name))
            for name in ("policy_patroni_ttl_seconds", "policy_database_failover_seconds")
        )
        began = time.monotonic()
        promoted = until(site.primary, "a new primary", limit)
        outage = time.monotonic() - began
        assert promoted != primary
        site.measured.append(f"database: another primary {outage:.0f} s after a power cut")
        rows = site.sql(f"select \"offset\" from uploads where id = '{client.upload_id}'")  # noqa: S608  # our own id
        assert int(rows[0][0]) >= before["start"] + before["length"], f"lost with {primary} after {outage:.0f} s"
        client.wait_success(180)
        said = site.wait_done(client.upload_id, 120)
    assert client.offsets == sorted(client.offsets), "an offset that a client was told went back"
    assert said["sha256"] == sha256
    assert site.download_sha256(said["content_url"]) == sha256
    assert len(client.of("request", method="POST")) == 1
    pieces = site.committed(client.upload_id)
    assert [piece["start"] for piece in pieces[1:]] == [piece["start"] + piece["length"] for piece in pieces[:-1]]
