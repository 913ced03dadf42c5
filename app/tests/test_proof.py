"""What shows that the right bytes arrived: checksums of requests, and which file an upload is of."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import time

import psycopg
import pytest
from tusclient.client import TusClient

from tests.processes import BODY, LOGIN, MIB, TUS, Site, Web

# --- Checksums -------------------------------------------------------------------------------------------------------


def checksum(algorithm: str, body: bytes) -> dict[str, str]:
    return {"Upload-Checksum": f"{algorithm} {base64.b64encode(hashlib.new(algorithm, body).digest()).decode()}"}


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_body_with_its_checksum(web: Web, pair: Site, algorithm: str) -> None:
    # Longer than the time and the size after which a piece is closed: it still counts as a whole.
    data = os.urandom(40 * MIB)
    url = web.create(len(data) + 3)
    wrong = web.request("PATCH", url, TUS | BODY | {"Upload-Offset": "0"} | checksum(algorithm, data[1:]), data)
    assert (wrong.status, "nothing of this request was kept" in wrong.text) == (460, True), wrong
    assert web.offset(url) == 0
    right = web.request("PATCH", url, TUS | BODY | {"Upload-Offset": "0"} | checksum(algorithm, data), data)
    assert (right.status, right.headers["upload-offset"]) == (204, str(len(data)))
    assert pair.content(url) == data
    # The body that completes the upload does not do so before it is proven.
    last = TUS | BODY | {"Upload-Offset": str(len(data))}
    assert web.request("PATCH", url, last | checksum(algorithm, b"abx"), b"abc").status == 460
    assert pair.jobs(url) == 0
    assert web.request("PATCH", url, last | checksum(algorithm, b"abc"), b"abc").status == 204
    assert pair.content(url) == data + b"abc"
    assert pair.jobs(url) == 1


def test_a_body_with_a_checksum_that_breaks_off_counts_for_nothing(web: Web, other: Web, pair: Site) -> None:
    data = os.urandom(3 * MIB)
    url = web.create(len(data))
    patch = web.open_patch(url, 0, len(data), checksum("sha256", data))
    patch.send(data[: 2 * MIB])
    # Some of it is on its way into the store.
    arriving = pair.folder / "store" / "tmp"
    deadline = time.monotonic() + 30
    while not (arriving.is_dir() and any(path.stat().st_size >= MIB for path in arriving.iterdir())):
        assert time.monotonic() < deadline, "nothing arrived"
        time.sleep(0.02)
    patch.cut()
    assert other.offset(url) == 0
    assert pair.content(url) == b""


def test_creation_with_a_wrong_checksum_leaves_nothing(web: Web, pair: Site) -> None:
    headers = LOGIN | TUS | BODY | {"Upload-Length": "5"}
    before = uploads(pair)
    wrong = web.request("POST", "/files/", headers | checksum("sha1", b"xyz"), b"123")
    assert (wrong.status, "location" in wrong.headers) == (460, False)
    assert uploads(pair) == before
    right = web.request("POST", "/files/", headers | checksum("sha1", b"123"), b"123")
    assert (right.status, right.headers["upload-offset"]) == (201, "3")


def uploads(where: Site) -> int:
    """How many there are that nobody has deleted."""
    with psycopg.connect(where.conninfo) as connection:
        row = connection.execute("select count(*) from uploads where state <> 'terminated'").fetchone()
    assert row is not None
    return int(row[0])


def test_tuspy_sends_checksums(web: Web, pair: Site) -> None:
    data = os.urandom(10 * MIB)
    client = TusClient(f"{web.url}/files/", headers=LOGIN)
    sender = client.uploader(file_stream=io.BytesIO(data), chunk_size=3 * MIB, upload_checksum=True)
    sender.upload()
    assert sender.url is not None
    assert pair.content(sender.url) == data


# --- Proving which file it is ----------------------------------------------------------------------------------------


def test_the_digests_of_what_is_stored(web: Web, other: Web) -> None:
    data = os.urandom(3 * MIB)
    url = web.create(len(data))
    assert web.patch(url, 0, data[: 2 * MIB + 10]).status == 204
    answer = other.request("GET", f"{url}/digests")
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    told = json.loads(answer.text)
    assert told["sha256"] is None
    assert [(block["start"], block["length"]) for block in told["blocks"]] == [(0, MIB), (MIB, MIB), (2 * MIB, 10)]
    for block in told["blocks"]:
        part = data[block["start"] : block["start"] + block["length"]]
        assert block["sha256"] == hashlib.sha256(part).hexdigest()
    # Asking does not take the upload from whoever sends it.
    sending = other.open_patch(url, 2 * MIB + 10, MIB - 10, {"Connection": "close"})
    assert web.request("GET", f"{url}/digests").status == 200
    sending.send(data[2 * MIB + 10 :])
    assert sending.answer().startswith(b"HTTP/1.1 204 ")


def test_what_the_whole_is_can_be_said(web: Web, other: Web) -> None:
    digest, another = hashlib.sha256(b"12345").hexdigest(), hashlib.sha256(b"x").hexdigest()
    url = web.create(5)
    assert web.request("PUT", f"{url}/sha256", {}, b"12345").status == 400
    assert web.request("PUT", f"{url}/sha256", {}, digest.encode()).status == 204
    assert other.request("PUT", f"{url}/sha256", {}, digest.upper().encode()).status == 204
    refused = other.request("PUT", f"{url}/sha256", {}, another.encode())
    assert (refused.status, "create a new upload" in json.loads(refused.text)["error"]) == (409, True)
    assert json.loads(web.request("GET", f"{url}/digests").text)["sha256"] == digest
    metadata = f"sha256 {base64.b64encode(digest.upper().encode()).decode()}"
    early = web.create(5, **{"Upload-Metadata": metadata})
    assert json.loads(web.request("GET", f"{early}/digests").text)["sha256"] == digest


def test_proofs_of_unknown_uploads(web: Web) -> None:
    url = web.create(5)
    for wrong in (url[:-1] + "-", url.replace("/files/", "/files/x")):
        assert web.request("GET", f"{wrong}/digests").status == 404
        assert web.request("PUT", f"{wrong}/sha256", {}, b"0" * 64).status == 404
    assert web.request("DELETE", url, TUS).status == 204
    assert web.request("GET", f"{url}/digests").status == 410
    assert web.request("PUT", f"{url}/sha256", {}, b"0" * 64).status == 410
    assert all("/files/-/" in line["path"] for line in web.log() if "/digests" in line.get("path", ""))
