"""What an upload costs the web process."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.site import Site

SIZE = 1_000_000_000
LIMIT_KB = 150_000


def content() -> Iterator[bytes]:
    """SIZE bytes, made as they are sent."""
    block = bytes(range(250)) * 4000
    for _ in range(SIZE // len(block)):
        yield block


class Sized:
    """An iterator whose length requests can see, so that it sends Content-Length and not chunks."""

    def __init__(self) -> None:
        self._blocks = content()

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks


def memory_kb(site: Site, host: str, field: str) -> int:
    """A field of /proc/PID/status of the web service's process, in kB."""
    unit = "longhaul-web.service"
    pid = site.run(host, "systemctl", "show", "--property=MainPID", "--value", unit).strip()
    status = site.run(host, "cat", f"/proc/{pid}/status")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:"))


def test_a_large_upload_needs_little_memory(site: Site) -> None:
    """1 GB through the load balancer: the web process's peak, of a fresh process, stays below 150 MB."""
    for host in site.group("web"):
        site.run(host, "systemctl", "restart", "longhaul-web.service")
    site.make_whole()
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(SIZE), "Upload-Metadata": "filename Z2lnYWJ5dGU="}
    url = site.http.post(site.endpoint, headers=headers, timeout=20).headers["Location"]
    answer = site.http.patch(
        url,
        data=Sized(),
        headers={
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": "0",
            "Content-Type": "application/offset+octet-stream",
        },
        timeout=300,
    )
    assert answer.status_code == 204, answer.text
    assert answer.headers["Upload-Offset"] == str(SIZE)
    serving = {piece["server"] for piece in site.committed(url.rpartition("/")[2])}
    peaks = {host: memory_kb(site, host, "VmHWM") for host in serving}
    assert peaks
    site.measured.append(f"memory of a web process that received {SIZE:,} bytes: at most {max(peaks.values()):,} kB")
    assert max(peaks.values()) < LIMIT_KB, f"peak memory in kB: {peaks}"
    site.http.delete(f"{site.url}/api/uploads/{url.rpartition('/')[2]}", timeout=20)
