"""What was acknowledged is on the disks: all data hosts lose their power at once, right after the answer."""

from __future__ import annotations

import time

import pytest

from tests.support.site import Site

HALF = 3_000_000


@pytest.mark.usefixtures("site")
def test_an_acknowledged_piece_outlives_the_power_of_all_data_hosts(site: Site) -> None:
    """The lab's power cut drops what a disk has not been told to keep, as a file without fsync on each host shows."""
    headers = {"Tus-Resumable": "1.0.0"}
    created = site.http.post(site.endpoint, headers={**headers, "Upload-Length": str(2 * HALF)}, timeout=20)
    url = created.headers["Location"]
    first, second = b"first" * (HALF // 5), b"other" * (HALF // 5)
    control = "/var/lib/never-synced"
    data = sorted({*site.group("storage"), *site.group("database")})
    sending = {**headers, "Content-Type": "application/offset+octet-stream"}
    for host in data:
        site.run(host, "sh", "-c", f"head -c 1000000 /dev/urandom >{control}")

    answer = site.http.patch(url, data=first, headers={**sending, "Upload-Offset": "0"}, timeout=60)
    assert answer.status_code == 204, answer.text
    assert answer.headers["Upload-Offset"] == str(HALF)
    acknowledged = time.monotonic()
    site.power_cut(*data)
    # The kernel writes what nobody has synced after about 30 s; much later than here.
    assert time.monotonic() - acknowledged < 5, "too late to prove anything"

    site.make_whole(180)
    for host in data:
        kept = site.run(host, "sh", "-c", f"stat -c %s {control} 2>/dev/null || echo 0").strip()
        content = site.run(host, "sh", "-c", f"tr -d '\\0' <{control} 2>/dev/null | wc -c || echo 0").strip()
        assert kept == "0" or int(content) < 500_000, f"{host} kept a file that was never synced: this proves nothing"
    offset = site.http.head(url, headers=headers, timeout=90)
    assert offset.headers["Upload-Offset"] == str(HALF), "an acknowledged piece does not count any more"
    answer = site.http.patch(url, data=second, headers={**sending, "Upload-Offset": str(HALF)}, timeout=60)
    assert answer.status_code == 204, answer.text
    said = site.wait_done(url.rpartition("/")[2], 120)
    downloaded = site.http.get(said["content_url"], timeout=60).content
    assert downloaded == first + second, "a piece that counted has lost its content"
