"""The protocol over real connections to real processes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tusclient.client import TusClient

from ops.throwaway_postgresql import throwaway_postgresql
from tests.processes import BODY, LOGIN, MIB, TOKEN, TUS, Site, Web, site


@pytest.fixture
def own_site(tmp_path: Path, conninfo: str) -> Iterator[Site]:
    """A site whose processes the test may kill."""
    with site(tmp_path / "site", conninfo, piece_seconds="30", handover_seconds="5") as made:
        yield made


# --- Answers ---------------------------------------------------------------------------------------------------------


def test_the_server_tells_what_it_can(web: Web) -> None:
    answer = web.request("OPTIONS", "/files/")
    assert answer.status == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) >= {"creation", "creation-with-upload", "termination"}
    assert answer.headers["tus-max-size"] == "200000000"
    assert "checksum" in answer.headers["tus-extension"].split(",")
    assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256"


def test_creation_gives_an_absolute_url(web: Web) -> None:
    url = web.create(5)
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc) == ("http", f"127.0.0.1:{web.port}")
    assert parts.path.startswith("/files/")
    answer = web.request("HEAD", url, TUS)
    assert (answer.headers["upload-offset"], answer.headers["upload-length"]) == ("0", "5")
    assert answer.headers["cache-control"] == "no-store"
    assert "upload-metadata" not in answer.headers
    assert answer.headers["upload-expires"].endswith("GMT")


def test_metadata_comes_back_as_it_was_sent(web: Web) -> None:
    sent = f"filename {base64.b64encode('späte Grüße.txt'.encode()).decode()},is_confidential"
    url = web.create(5, **{"Upload-Metadata": sent})
    assert web.request("HEAD", url, TUS).headers["upload-metadata"] == sent


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        (TUS | {"Upload-Length": "5"}, 401, "Authorization: Bearer"),
        (TUS | {"Upload-Length": "5", "Authorization": "Bearer guessed"}, 401, "Authorization: Bearer"),
        (LOGIN | {"Upload-Length": "5"}, 412, "Tus-Resumable"),
        (LOGIN | {"Upload-Length": "5", "Tus-Resumable": "0.2.2"}, 412, "send Tus-Resumable: 1.0.0"),
        (LOGIN | TUS, 400, "Upload-Length is missing"),
        (LOGIN | TUS | {"Upload-Length": "-1"}, 400, "digits only"),
        (LOGIN | TUS | {"Upload-Length": "1e3"}, 400, "digits only"),
        (LOGIN | TUS | {"Upload-Length": "9" * 30}, 400, "digits only"),
        (LOGIN | TUS | {"Upload-Length": "200000001"}, 413, "at most 200000000"),
        (LOGIN | TUS | {"Upload-Defer-Length": "1"}, 400, "send the size"),
        (LOGIN | TUS | {"Upload-Length": "5", "Upload-Metadata": "filename !!!"}, 400, "not base64"),
        (LOGIN | TUS | {"Upload-Length": "5", "Upload-Metadata": "a YQ==,a YQ=="}, 400, "twice"),
        (LOGIN | TUS | {"Upload-Length": "5", "Upload-Metadata": "a AA=="}, 400, "null byte"),
        (LOGIN | TUS | {"Upload-Length": "5", "Upload-Metadata": "a " + "YWFh" * 3000}, 400, "at most 8192"),
        (LOGIN | TUS | {"Upload-Length": "5", "Upload-Metadata": "sha256 YWJj"}, 400, "64 hexadecimal digits"),
        (LOGIN | TUS | {"Upload-Length": "5", "Upload-Checksum": "md5 YWJj"}, 400, "sha1, sha256"),
    ],
)
def test_a_bad_creation_says_what_to_do(web: Web, headers: dict[str, str], status: int, text: str) -> None:
    answer = web.request("POST", "/files/", headers)
    assert (answer.status, text in answer.text) == (status, True), answer
    assert answer.headers["tus-resumable"] == "1.0.0"


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (("PATCH", BODY | {"Upload-Offset": "0"}, b"x"), 412, "Tus-Resumable"),
        (("PATCH", TUS | {"Upload-Offset": "0", "Content-Type": "text/plain"}, b"x"), 415, "application/offset"),
        (("PATCH", TUS | {"Upload-Offset": "0"}, b"x"), 415, "application/offset"),
        (("PATCH", TUS | BODY, b"x"), 400, "send the offset"),
        (("PATCH", TUS | BODY | {"Upload-Offset": "-3"}, b"x"), 400, "send the offset"),
        (("PATCH", TUS | BODY | {"Upload-Offset": "3"}, b"x"), 409, "HEAD"),
        (("PATCH", TUS | BODY | {"Upload-Offset": "0"}, b"123456"), 413, "create a new upload"),
        (("PATCH", TUS | BODY | {"Upload-Offset": "0", "Upload-Checksum": "crc32 AAAA"}, b"x"), 400, "sha1, sha256"),
        (("PATCH", TUS | BODY | {"Upload-Offset": "0", "Upload-Checksum": "sha1"}, b"x"), 400, "20 bytes in base64"),
        (("PATCH", TUS | BODY | {"Upload-Offset": "0", "Upload-Checksum": "sha1 !"}, b"x"), 400, "20 bytes in base64"),
        (("GET", TUS, None), 405, "HEAD, PATCH, DELETE"),
        (("HEAD", {}, None), 412, ""),
    ],
)
def test_a_bad_request_on_an_upload_changes_nothing(
    web: Web, request_: tuple[str, dict[str, str], bytes | None], status: int, text: str
) -> None:
    url = web.create(5)
    method, headers, body = request_
    answer = web.request(method, url, headers, body)
    assert (answer.status, text in answer.text) == (status, True), answer
    assert web.offset(url) == 0
    assert web.patch(url, 0, b"12345").status == 204


def test_unknown_uploads(web: Web) -> None:
    url = web.create(5)
    for wrong in (url[:-1] + "-", url.replace("/files/", "/files/x")):
        assert web.request("HEAD", wrong, TUS).status == 404
        answer = web.patch(wrong, 0, b"12345")
        assert (answer.status, "create a new upload" in answer.text) == (404, True)
        assert web.request("DELETE", wrong, TUS).status == 404


def test_termination(web: Web, other: Web) -> None:
    url = web.create(5)
    assert web.patch(url, 0, b"123").status == 204
    assert web.request("DELETE", url, TUS).status == 204
    assert web.request("HEAD", url, TUS).status == 410
    assert other.patch(url, 3, b"45").status == 410
    assert other.request("DELETE", url, TUS).status == 410


def test_the_method_can_stand_in_a_header(web: Web) -> None:
    url = web.create(5)
    answer = web.request("POST", url, TUS | BODY | {"Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}, b"123")
    assert (answer.status, answer.headers["upload-offset"]) == (204, "3")


def test_a_file_of_no_bytes_is_complete_at_once(web: Web, pair: Site) -> None:
    url = web.create(0)
    assert web.offset(url) == 0
    assert pair.jobs(url) == 1
    assert web.patch(url, 0, b"").headers["upload-offset"] == "0"


def test_creation_with_upload(web: Web, pair: Site) -> None:
    headers = LOGIN | TUS | BODY
    answer = web.request("POST", "/files/", headers | {"Upload-Length": "5"}, b"123")
    assert (answer.status, answer.headers["upload-offset"]) == (201, "3")
    url = answer.headers["location"]
    assert web.patch(url, 3, b"45").status == 204
    assert pair.content(url) == b"12345"
    assert pair.jobs(url) == 1


def test_an_answer_arrives_while_the_body_is_still_sent(web: Web) -> None:
    url = web.create(100 * MIB)
    patch = web.open_patch(url, 7, 90 * MIB)
    with contextlib.suppress(ConnectionError):
        for _ in range(90):
            patch.send(bytes(MIB))
    assert patch.answer().startswith(b"HTTP/1.1 409 ")
    patch.cut()


def test_no_body_is_asked_for_when_it_would_be_refused(web: Web) -> None:
    url = web.create(10)
    answer = web.request(
        "PATCH", url, TUS | BODY | {"Upload-Offset": "3", "Content-Length": "7", "Expect": "100-continue"}
    )
    assert answer.status == 409


def test_a_chunked_body_that_is_too_long(web: Web, pair: Site) -> None:
    url = web.create(5)
    headers = TUS | BODY | {"Upload-Offset": "0", "Transfer-Encoding": "chunked", "Content-Length": "0"}
    del headers["Content-Length"]
    patch = web.open_patch(url, 0, 0)
    patch.cut()
    chunked = b"3\r\n123\r\n5\r\n45678\r\n0\r\n\r\n"
    answer = _raw(web, url, headers, chunked)
    assert answer.startswith(b"HTTP/1.1 413 "), answer
    assert web.offset(url) == 0
    assert pair.jobs(url) == 0
    assert _raw(web, url, headers, b"5\r\n12345\r\n0\r\n\r\n").startswith(b"HTTP/1.1 204 ")
    assert pair.content(url) == b"12345"


def _raw(web: Web, url: str, headers: dict[str, str], body: bytes) -> bytes:
    import socket

    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as raw:
        fields = headers | {"Host": "test", "Connection": "close"}
        head = f"PATCH {urlsplit(url).path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
        raw.sendall(head.encode() + b"\r\n" + body)
        received = b""
        while data := raw.recv(65536):
            received += data
        return received


# --- Cuts and servers ------------------------------------------------------------------------------------------------


def test_after_a_cut_the_sent_bytes_are_kept(web: Web, other: Web, pair: Site) -> None:
    data = os.urandom(3 * MIB)
    url = web.create(len(data))
    patch = web.open_patch(url, 0, len(data))
    patch.send(data[: 2 * MIB + 100])
    time.sleep(0.3)
    patch.cut()
    assert other.offset(url) == 2 * MIB + 100
    assert other.patch(url, 2 * MIB + 100, data[2 * MIB + 100 :]).status == 204
    assert pair.content(url) == data
    assert pair.jobs(url) == 1


@pytest.mark.parametrize("where", ["same", "other"])
def test_a_stale_connection_is_dropped_within_two_seconds(web: Web, other: Web, pair: Site, where: str) -> None:
    url = web.create(100)
    stale = web.open_patch(url, 0, 100)
    stale.send(b"0123456789")
    time.sleep(1.2)
    began = time.monotonic()
    asking = web if where == "same" else other
    assert asking.offset(url) == 10, "asked to leave, it committed what it had"
    answer = stale.answer(seconds=3)
    assert time.monotonic() - began < 2
    assert answer.startswith(b"HTTP/1.1 423 ")
    assert asking.patch(url, 10, b"x" * 90).status == 204
    assert pair.content(url) == b"0123456789" + b"x" * 90


def test_a_patch_takes_over_too(web: Web, other: Web) -> None:
    url = web.create(100)
    stale = web.open_patch(url, 0, 100)
    time.sleep(1.2)
    assert other.patch(url, 0, b"abc").headers["upload-offset"] == "3"
    assert stale.answer(seconds=3).startswith(b"HTTP/1.1 423 ")


def test_after_a_crash_another_server_goes_on(own_site: Site) -> None:
    web, other = own_site.web("web1"), own_site.web("web2")
    data = os.urandom(50 * MIB)
    url = web.create(len(data))
    patch = web.open_patch(url, 0, len(data))
    patch.send(data[: 40 * MIB])
    while other_offset(own_site, url) == 0:
        time.sleep(0.05)
    web.kill()
    patch.cut()
    began = time.monotonic()
    offset = other.offset(url)
    assert time.monotonic() - began < 5
    assert 40 * MIB - 33 * MIB <= offset <= 40 * MIB, "at most a piece is sent again"
    assert own_site.content(url) == data[:offset]
    assert other.patch(url, offset, data[offset:]).status == 204
    assert own_site.content(url) == data
    assert own_site.jobs(url) == 1


def other_offset(where: Site, url: str) -> int:
    return len(where.content(url))


def test_sigterm_hands_over(own_site: Site) -> None:
    web, other = own_site.web("web1"), own_site.web("web2")
    url = web.create(MIB)
    slow = web.open_patch(url, 0, MIB)
    slow.send(b"x" * 12345)
    idle = web.open_patch(web.create(MIB), 0, MIB)
    time.sleep(0.5)
    web.terminate()
    assert slow.answer(seconds=5).startswith(b"HTTP/1.1 423 ")
    assert idle.answer(seconds=5).startswith(b"HTTP/1.1 423 ")
    assert other.offset(url) == 12345
    assert web.process is not None
    assert web.process.wait(timeout=5) == 0
    messages = [line["message"] for line in web.log()]
    assert "handing over" in messages
    assert "handed over" in messages


@pytest.mark.parametrize("chunk", [None, 3 * MIB], ids=["one PATCH", "many PATCHes"])
def test_tuspy_uploads(web: Web, pair: Site, chunk: int | None) -> None:
    data = os.urandom(10 * MIB)
    client = TusClient(f"{web.url}/files/", headers=LOGIN)
    sender = client.uploader(
        file_stream=io.BytesIO(data), metadata={"filename": "file.bin"}, **({"chunk_size": chunk} if chunk else {})
    )
    sender.upload()
    assert sender.url is not None
    assert hashlib.sha256(pair.content(sender.url)).digest() == hashlib.sha256(data).digest()
    assert pair.jobs(sender.url) == 1


def test_tuspy_resumes_after_its_connection_is_taken(web: Web, pair: Site) -> None:
    """tuspy sends, another connection asks for the offset in the middle of it, and tuspy tries again."""
    data = os.urandom(40 * MIB)
    client = TusClient(f"{web.url}/files/", headers=LOGIN)

    class Interrupting(io.BytesIO):
        """A file in whose middle somebody else asks for the upload."""

        asked = False

        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 20 * MIB and not self.asked:
                self.asked = True
                assert sender.url is not None
                pair.webs[1].offset(sender.url)
            return super().read(size)

    sender = client.uploader(file_stream=Interrupting(data), chunk_size=4 * MIB, retries=3, retry_delay=1)
    sender.upload()
    assert sender.url is not None
    assert pair.content(sender.url) == data


# --- A database that is away -----------------------------------------------------------------------------------------


def test_head_is_held_while_the_database_is_away(tmp_path: Path) -> None:
    from longhaul import schema
    from longhaul.settings import Settings

    with throwaway_postgresql() as server:
        schema.migrate(Settings(database=server.conninfo, store="directory:/nowhere"))
        with site(tmp_path / "site", server.conninfo, head_hold_seconds="3", piece_seconds="1") as made:
            web = made.web("web1")
            url = web.create(100)
            sending = web.open_patch(url, 0, 100)
            sending.send(b"x" * 50)
            time.sleep(0.2)
            server.stop(kill=True)
            began = time.monotonic()
            with pytest.raises(ConnectionError):
                web.request("HEAD", url, TUS)
            assert 2.5 < time.monotonic() - began < 6, "held, then closed without an answer"
            assert sending.answer() == b"", "what could not be committed is not answered for either"
            server.start()
            assert web.offset(url) in (0, 50)
            offset = web.offset(url)
            assert web.patch(url, offset, b"x" * (100 - offset)).status == 204
            assert made.content(url) == b"x" * 100


# --- Health and logs -------------------------------------------------------------------------------------------------


def test_health_follows_the_drain_mark(web: Web, pair: Site) -> None:
    assert web.request("GET", "/healthz").status == 200
    mark = pair.folder / "web1.drain"
    mark.touch()
    assert web.request("GET", "/healthz").status == 404
    assert web.offset(web.create(5)) == 0, "requests that still come are served"
    mark.unlink()
    assert web.request("GET", "/healthz").status == 200


def test_log_lines_carry_ids_and_no_keys(web: Web, pair: Site) -> None:
    answer = web.request("POST", "/files/", LOGIN | TUS | {"Upload-Length": "3", "X-Request-ID": "from-the-balancer"})
    url = answer.headers["location"]
    assert answer.headers["x-request-id"] == "from-the-balancer"
    assert web.patch(url, 0, b"123").status == 204
    *_, key, upload_id = url.split("/")
    lines = [line for line in web.log() if line.get("upload_id") == upload_id]
    messages = {line["message"] for line in lines}
    assert messages >= {"upload created", "piece committed", "upload complete", "processing queued"}
    assert all(line["request_id"] for line in lines)
    created = next(line for line in lines if line["message"] == "upload created")
    assert created["request_id"] == "from-the-balancer"
    for one in pair.webs:
        text = one.output.read_text()
        assert key not in text
        assert TOKEN not in text
