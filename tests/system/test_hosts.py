"""Hosts that go away on purpose, one after another, and all of them against everybody's will."""

from __future__ import annotations

import hashlib
import random
import time

from ops.inventories import LAB_ENVIRONMENT
from ops.load.run import Load
from tests.support.site import Site, inv
from tests.support.waiting import until

MB = 1_000_000
COLD_START_SECONDS = 240


def boots(site: Site) -> dict[str, str]:
    """Host -> the id of its present boot."""
    return {host: site.run(host, "cat", "/proc/sys/kernel/random/boot_id").strip() for host in site.hosts}


def test_hosts_that_need_it_are_rebooted_unnoticed(site: Site, users: Load) -> None:
    """A web host and the database's primary: the leadership moves on purpose, nothing fails, the rest stays up."""
    before, primary = boots(site), site.primary()
    for host in ("web2", primary):
        site.run(host, "touch", "/run/reboot-required")
    done = inv("host.reboot", f"--env={LAB_ENVIRONMENT}", "--rolling", seconds=600)
    assert done.returncode == 0, done.stdout[-10000:]
    after = boots(site)
    assert {host for host in before if before[host] != after[host]} == {"web2", primary}
    assert site.primary() != primary
    assert set(site.backends("lb1").values()) == {"UP"}
    none = inv("host.reboot", f"--env={LAB_ENVIRONMENT}", "--rolling")
    assert none.returncode == 0, none.stdout
    assert "No host of 'lab' needs a reboot" in none.stdout


def test_no_reboot_while_the_site_is_not_well(site: Site) -> None:
    before = boots(site)
    site.run("web1", "systemctl", "stop", "longhaul-web.service")
    done = inv("host.reboot", f"--env={LAB_ENVIRONMENT}", "--limit=web2")
    assert done.returncode == 1, done.stdout
    assert "longhaul-web.service is inactive" in " ".join(done.stdout.split())
    assert boots(site) == before


def test_after_a_power_cut_of_everything_all_comes_back_by_itself(site: Site) -> None:
    """In the worst order: those first who need others. An upload goes on from what was acknowledged before."""
    content = random.Random(12).randbytes(8 * MB)  # noqa: S311  # test data, not a secret
    half = len(content) // 2
    tus = {"Tus-Resumable": "1.0.0"}
    created = site.http.post(site.endpoint, headers={**tus, "Upload-Length": str(len(content))}, timeout=30)
    url = created.headers["Location"]
    bytes_of = {**tus, "Content-Type": "application/offset+octet-stream"}
    # Part of the body only: what counts afterwards is what the site says then, and never less than it acknowledged.
    sent = site.http.patch(url, content[:half], headers={**bytes_of, "Upload-Offset": "0"}, timeout=60)
    assert sent.status_code == 204, sent.text
    acknowledged = int(sent.headers["Upload-Offset"])
    site.power_cut(*site.hosts)
    began = time.monotonic()
    data = {*site.group("database"), *site.group("storage")}
    site.lab.up([host for host in site.hosts if host not in data])
    site.lab.up(sorted(data))
    site.make_whole(COLD_START_SECONDS)
    site.measured.append(f"cold start of all hosts: serving after {time.monotonic() - began:.0f} s")

    def offset() -> int:
        answer = site.http.head(url, headers=tus, timeout=90)
        return int(answer.headers["Upload-Offset"]) if answer.status_code == 200 else -1

    assert until(lambda: offset() + 1, "the offset", 60) - 1 >= acknowledged == half
    rest = site.http.patch(url, content[half:], headers={**bytes_of, "Upload-Offset": str(half)}, timeout=60)
    assert rest.status_code == 204, rest.text
    said = site.wait_done(url.rpartition("/")[2], 120)
    assert said["sha256"] == hashlib.sha256(content).hexdigest()
    state = inv("status", f"--env={LAB_ENVIRONMENT}", "--json")
    assert state.returncode == 0, state.stdout[-5000:]
