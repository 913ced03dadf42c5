"""What a client gets for what it must not do, through the load balancer: the right status, a reason, and no loss."""

from __future__ import annotations

import socket
import ssl
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.site import Site
from tests.support.waiting import until

SIZE = 10_000


class Tus:
    """One upload of SIZE bytes, spoken to by hand."""

    def __init__(self, site: Site) -> None:
        self.site = site
        answer = self.create(str(SIZE))
        assert answer.status_code == 201, answer.text
        self.url = answer.headers["Location"]
        self.upload_id = self.url.rpartition("/")[2]

    def create(self, size: str) -> requests.Response:
        """POST."""
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": size}
        return self.site.http.post(self.site.endpoint, headers=headers, timeout=20)

    def patch(self, body: bytes, **changed: str | None) -> requests.Response:
        """PATCH from byte 0, with headers changed (`Upload_Offset="5"`) or left out (None)."""
        headers: dict[str, Any] = {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": "0",
            "Content-Type": "application/offset+octet-stream",
        }
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        return self.site.http.patch(self.url, data=body, headers=headers, timeout=20)

    def offset(self) -> int:
        """HEAD."""
        answer = self.site.http.head(self.url, headers={"Tus-Resumable": "1.0.0"}, timeout=70)
        assert answer.status_code == 200
        return int(answer.headers["Upload-Offset"])


@pytest.fixture
def tus(site: Site) -> Tus:
    """A new upload."""
    return Tus(site)


def too_large(tus: Tus) -> requests.Response:
    """An upload that is one byte larger than the policy allows."""
    return tus.create(str(int(tus.site.environment.variable("policy_largest_upload_bytes")) + 1))


def unknown(method: str) -> Callable[[Tus], requests.Response]:
    """A request for an upload that there is not."""

    def ask(tus: Tus) -> requests.Response:
        url = f"{tus.site.endpoint}{uuid.uuid4().hex}/{uuid.uuid4().hex[:16]}"
        headers = {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": "0",
            "Content-Type": "application/offset+octet-stream",
        }
        return tus.site.http.request(method, url, headers=headers, data=b"x", timeout=20)

    return ask


REFUSALS: dict[str, tuple[int, Callable[[Tus], requests.Response]]] = {
    "wrong offset": (409, lambda tus: tus.patch(b"x" * 5, Upload_Offset="5")),
    "wrong version": (412, lambda tus: tus.patch(b"x" * 5, Tus_Resumable="0.2.2")),
    "no version": (412, lambda tus: tus.patch(b"x" * 5, Tus_Resumable=None)),
    "wrong content type": (415, lambda tus: tus.patch(b"x" * 5, Content_Type="text/plain")),
    "larger than allowed": (413, too_large),
    "longer than announced": (413, lambda tus: tus.patch(b"x" * (SIZE + 1))),
    "PATCH of an unknown upload": (404, unknown("PATCH")),
    "HEAD of an unknown upload": (404, unknown("HEAD")),
    "DELETE of an unknown upload": (404, unknown("DELETE")),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refusal(tus: Tus, what: str) -> None:
    """The documented status and, where there may be a body, a sentence; the upload stands where it stood."""
    status, act = REFUSALS[what]
    answer = act(tus)
    assert answer.status_code == status, f"{what}: {answer.status_code} {answer.text}"
    assert answer.headers.get("Tus-Resumable") == "1.0.0"
    if answer.request.method != "HEAD":
        assert len(answer.text.split()) >= 4, f"{what}: {answer.text!r} does not say what to do"
    assert tus.offset() == 0


def test_without_a_token_nothing_is_created(site: Site) -> None:
    """401, and no row."""
    before = site.sql("select count(*) from uploads")
    answer = requests.post(
        site.endpoint, headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5"}, verify=site.ca_file, timeout=20
    )
    assert answer.status_code == 401
    assert site.sql("select count(*) from uploads") == before


def test_a_truncated_upload_keeps_what_arrived(tus: Tus) -> None:
    """A client announces all bytes, sends half of them and is gone: that half is kept, and the rest goes on top."""
    site = tus.site
    half = SIZE // 2
    body = bytes(range(256)) * (SIZE // 256 + 1)
    with tls_connection(site) as connection:
        connection.sendall(request(tus, SIZE) + body[:half])
        # Once it is with a web host: HAProxy drops a request whose client is gone before that.
        query = f"select receiver is not null from uploads where id = '{tus.upload_id}'"  # noqa: S608  # our own id
        until(lambda: site.sql(query) == [["t"]], "a web host to receive", 10)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    until(lambda: tus.offset() == half, "the first half to be kept", 10)
    answer = tus.patch(body[half:SIZE], Upload_Offset=str(half))
    assert answer.status_code == 204, answer.text
    assert answer.headers["Upload-Offset"] == str(SIZE)
    said = site.wait_done(tus.upload_id)
    assert said["size"] == SIZE


def request(tus: Tus, length: int) -> bytes:
    """The head of a PATCH from byte 0 that announces `length` bytes."""
    parts = urlsplit(tus.url)
    return (
        f"PATCH {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        f"Content-Type: application/offset+octet-stream\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def tls_connection(site: Site) -> ssl.SSLSocket:
    """A connection to the site over which a test sends what no client library would."""
    host = urlsplit(site.url).hostname
    assert host is not None
    context = ssl.create_default_context(cafile=site.ca_file)
    return context.wrap_socket(socket.create_connection((host, 443), timeout=20), server_hostname=host)


def test_a_request_that_is_not_http_is_refused(site: Site) -> None:
    """400 from the load balancer itself, and it goes on serving."""
    with tls_connection(site) as connection:
        connection.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        answer = connection.recv(100)
    assert answer.startswith(b"HTTP/1.1 400") or answer == b"", answer
    assert site.http.get(f"{site.url}/healthz", timeout=10).status_code == 200


def test_every_answer_has_a_request_id(site: Site) -> None:
    """The load balancer makes one, and the web host's log lines have it."""
    marker = f"/uploads/none{time.time_ns()}"
    answer = site.http.get(f"{site.url}{marker}", timeout=10)
    assert answer.status_code == 404
    request_id = answer.headers["X-Request-ID"]

    def logged() -> list[dict[str, Any]]:
        lines = [line for host in site.running("web") for line in site.journal(host, "longhaul-web.service")]
        return [line for line in lines if line.get("request_id") == request_id]

    until(logged, f"a log line with the request id {request_id}", 10)
