"""What a program gets: the JSON of an upload, its content and parts of it."""

from __future__ import annotations

import hashlib
from http.client import IncompleteRead

import pytest

from tests.served import BLOCK, CONTENT, PIECE, Site


def test_the_json_of_a_finished_upload(site: Site) -> None:
    upload_id = site.processed({"report.txt": b"text", "a b.json": b"{}"})
    answer = site.program().get(f"/api/uploads/{upload_id}").json
    base = f"{site.url}/api/uploads/{upload_id}"
    assert answer["id"] == upload_id
    assert answer["state"] == "done"
    assert (answer["offset"], answer["size"]) == (7, 7)
    assert answer["sha256"] == hashlib.sha256(b"content").hexdigest()
    assert answer["progress"] == {"upload": 1.0, "processing": 1.0, "message": None}
    assert answer["content_url"] == f"{base}/content"
    assert answer["processed_by"] == {"worker": "test", "release": "r1", "processors": "p1"}
    assert answer["results"] == [
        {"name": name, "url": f"{base}/results/{quoted}", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, quoted, data in (("a b.json", "a%20b.json", b"{}"), ("report.txt", "report.txt", b"text"))
    ]
    assert site.program().get(f"/api/uploads/{upload_id}/results/a%20b.json").body == b"{}"


def test_an_unfinished_upload_has_no_content_yet(site: Site) -> None:
    program = site.program()
    upload_id = program.upload(b"x" * 1000, send=400)
    answer = program.get(f"/api/uploads/{upload_id}").json
    assert (answer["state"], answer["offset"], answer["content_url"]) == ("receiving", 400, None)
    assert answer["progress"]["upload"] == 0.4
    assert answer["processed_by"] is None
    refused = program.get(f"/api/uploads/{upload_id}/content")
    assert refused.status == 409
    assert "400 of 1000 bytes" in refused.json["error"]


def test_downloads_are_what_was_uploaded(site: Site) -> None:
    upload_id = site.uploaded()
    answer = site.program().get(f"/api/uploads/{upload_id}/content")
    assert answer.status == 200
    assert answer.body == CONTENT
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in answer.headers["content-security-policy"]
    head = site.program().ask("HEAD", f"/api/uploads/{upload_id}/content")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (0, 0),
        (0, len(CONTENT) - 1),
        (len(CONTENT) - 1, len(CONTENT) - 1),
        (BLOCK - 1, BLOCK),
        (PIECE - 1, PIECE),
        (PIECE, PIECE + 5),
        (5, PIECE + BLOCK // 2),
    ],
)
def test_parts_of_downloads(site: Site, first: int, last: int) -> None:
    upload_id = site.uploaded()
    answer = site.program().get(f"/api/uploads/{upload_id}/content", range=f"bytes={first}-{last}")
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert answer.body == CONTENT[first : last + 1]


def test_downloads_go_on_only_with_the_same_content(site: Site) -> None:
    upload_id = site.uploaded(b"0123456789")
    path = f"/api/uploads/{upload_id}/content"
    program = site.program()
    etag = program.get(path).headers["etag"]
    assert program.get(path, range="bytes=4-", if_range=etag).body == b"456789"
    assert program.get(path, range="bytes=4-", if_range='"another"').body == b"0123456789"
    assert program.get(path, if_none_match=f'"x", {etag}').status == 304
    outside = program.get(path, range="bytes=10-")
    assert (outside.status, outside.headers["content-range"]) == (416, "bytes */10")


def test_an_empty_file_can_be_downloaded(site: Site) -> None:
    upload_id = site.uploaded(b"")
    answer = site.program().get(f"/api/uploads/{upload_id}/content")
    assert (answer.status, answer.body) == (200, b"")
    assert site.program().get(f"/api/uploads/{upload_id}/content", range="bytes=0-").status == 416


def test_damaged_content_is_never_handed_out_as_whole(site: Site) -> None:
    upload_id = site.uploaded()
    [second] = [
        path for path in (site.root / "store" / "uploads" / upload_id).iterdir() if f"{PIECE:016d}" in path.name
    ]
    damaged = bytearray(second.read_bytes())
    damaged[0] ^= 1
    second.write_bytes(damaged)
    program = site.program()
    with pytest.raises(IncompleteRead) as cut:
        program.get(f"/api/uploads/{upload_id}/content")
    assert CONTENT.startswith(cut.value.partial)
    # If the first block is already bad, there is still time to say so.
    refused = program.get(f"/api/uploads/{upload_id}/content", range=f"bytes={PIECE}-")
    assert refused.status == 500
    assert "damaged" in refused.json["error"]
    assert program.get(f"/api/uploads/{upload_id}/content", range=f"bytes=0-{PIECE - 1}").body == CONTENT[:PIECE]
