"""An upload is only gone on with by the file that began it, whatever two files have in common.

All files of a test have the same name, size and modification time. What the server holds is compared with what was
chosen: no upload may ever hold bytes of two files.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Playwright, Route, expect

from longhaul.uploads.sampling import BLOCKS
from ops.local_app import LocalApp
from tests.browser.person import ARGUMENTS, PATIENCE_MS, Person, chromium

MIB = 1 << 20
SIZE = 24_000_000
SLOW = 6_000_000
"""Bytes a second of a slow line: an upload of SIZE then takes four seconds."""
ANOTHER = "Another file of the same name, size and date"
MOMENT = 1_700_000_000_000_000_000
"""When all files were changed last, in nanoseconds."""


def content(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311  # the same bytes in each run


def differing(data: bytes, *positions: int) -> bytes:
    """The same but for these bytes."""
    changed = bytearray(data)
    for position in positions:
        changed[position] ^= 1
    return bytes(changed)


def write(path: Path, data: bytes) -> Path:
    """A file that has the same metadata whatever is in it."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(MOMENT, MOMENT))
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def begin_and_leave(person: Person, path: Path, percent: int = 25) -> dict[str, object]:
    """Send some of a file, and close the page; the upload that is left."""
    person.line(SLOW)
    person.choose(path)
    person.see_upload(path.name, percent)
    person.page.reload()
    person.see_live()
    left = person.see_offset(path.name, 1_000_000)
    person.line(-1)
    return left


def sums(person: Person, filename: str) -> list[str]:
    """SHA-256 of the uploads of that name that are done, as the worker computed it."""
    return sorted(
        upload["sha256"] for upload in person.uploads() if upload["filename"] == filename and upload["state"] == "done"
    )


FIRST = content(1)
ANOTHERS = {
    "differs everywhere": content(2),
    "in the first byte": differing(FIRST, 0),
    "in the last byte": differing(FIRST, SIZE - 1),
    "in one byte of what is stored": differing(FIRST, 500_000),
}


@pytest.mark.parametrize("second", ANOTHERS.values(), ids=ANOTHERS)
def test_another_file_after_an_interruption(
    person: Person, tmp_path: Path, second: bytes, request: pytest.FixtureRequest
) -> None:
    name = re.sub(r"\W+", "-", request.node.name) + ".bin"
    left = begin_and_leave(person, write(tmp_path / "one" / name, FIRST))
    person.line(SLOW)
    person.choose(write(tmp_path / "two" / name, second))
    expect(person.row(name)).to_have_count(2)
    expect(person.rows_in_state(name, "Uploading").filter(has_text=ANOTHER)).to_have_count(1, timeout=PATIENCE_MS)
    person.photograph("another-file")
    person.line(-1)
    expect(person.rows_in_state(name, "Done")).to_have_count(1, timeout=PATIENCE_MS)
    assert sums(person, name) == [sha256(second)]
    # The first one stays as it was, and is still there to go on with.
    assert person.offset_of(left["id"]) == left["offset"]
    first_offsets = person.watch_offsets()
    person.choose(tmp_path / "one" / name)
    expect(person.rows_in_state(name, "Done")).to_have_count(2, timeout=PATIENCE_MS)
    assert sums(person, name) == sorted([sha256(FIRST), sha256(second)])
    assert first_offsets == [str(left["offset"])]


def test_two_at_once(person: Person, tmp_path: Path) -> None:
    name = "twins.bin"
    files = [write(tmp_path / str(seed) / name, content(seed)) for seed in (3, 4)]
    person.line(SLOW)
    person.choose(*files)
    expect(person.rows_in_state(name, "Uploading")).to_have_count(2, timeout=PATIENCE_MS)
    person.photograph("twins")
    person.line(-1)
    expect(person.rows_in_state(name, "Done")).to_have_count(2, timeout=PATIENCE_MS)
    assert sums(person, name) == sorted(sha256(content(seed)) for seed in (3, 4))


def test_the_same_file_twice_at_once_is_uploaded_twice(person: Person, tmp_path: Path) -> None:
    path = write(tmp_path / "again.bin", content(5))
    person.choose(path)
    person.choose(path)
    expect(person.rows_in_state(path.name, "Done")).to_have_count(2, timeout=PATIENCE_MS)
    assert sums(person, path.name) == [sha256(content(5))] * 2


def test_in_two_tabs(person: Person, tmp_path: Path) -> None:
    name = "tabs.bin"
    person.line(SLOW / 2)
    person.choose(write(tmp_path / "one" / name, content(6)))
    person.see_upload(name, 15)
    other = Person(person.context, person.app)
    other.page.goto(person.app.url)
    other.see_live()
    other.choose(write(tmp_path / "two" / name, content(7)))
    expect(other.rows_in_state(name, "Done")).to_have_count(1, timeout=PATIENCE_MS)
    person.line(-1)
    expect(person.rows_in_state(name, "Done")).to_have_count(2, timeout=PATIENCE_MS)
    assert sums(person, name) == sorted(sha256(content(seed)) for seed in (6, 7))
    assert other.complaints == []


def test_after_the_browser_was_closed(playwright: Playwright, app: LocalApp, tmp_path: Path) -> None:
    name = "closed.bin"
    files = [write(tmp_path / str(seed) / name, content(seed)) for seed in (8, 9)]

    def open_browser() -> BrowserContext:
        return playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=chromium(), args=ARGUMENTS
        )

    context = open_browser()
    person = Person(context, app)
    person.sign_in()
    person.line(SLOW)
    person.choose(*files)
    expect(person.rows_in_state(name, "Uploading")).to_have_count(2, timeout=PATIENCE_MS)
    for number in range(2):
        person.see_upload_of(person.row(name).nth(number), 15)
    context.close()

    context = open_browser()
    person = Person(context, app)
    person.page.goto(app.url)
    person.see_live()
    offsets = person.watch_offsets()
    stranger = write(tmp_path / "10" / name, content(10))
    person.choose(stranger, *files)
    expect(person.rows_in_state(name, "Done")).to_have_count(3, timeout=PATIENCE_MS)
    assert sums(person, name) == sorted(sha256(content(seed)) for seed in (8, 9, 10))
    # Both went on where they were, though either could have been taken for the other, and the third for both.
    assert sorted(int(offset) > 0 for offset in offsets) == [False, True, True]
    context.close()
    assert person.complaints == []


def test_a_difference_in_a_sample_of_a_large_file(person: Person, tmp_path: Path) -> None:
    size = (BLOCKS + 40) * MIB
    first = content(11, size)
    # Every second MiB differs in one byte: that all places of the sample miss it happens once in 2 ** 59 times.
    second = differing(first, *range(MIB + 1000, size - 2 * MIB, 2 * MIB))
    name = "large.bin"
    person.line(20_000_000)
    person.choose(write(tmp_path / "one" / name, first))
    person.see_upload(name, 70)  # a second and a half before its end: the page is left in time
    person.page.reload()
    person.see_live()
    left = person.see_offset(name, (BLOCKS + 1) * MIB)
    person.line(-1)
    person.choose(write(tmp_path / "two" / name, second))
    expect(person.row(name)).to_have_count(2, timeout=PATIENCE_MS)
    expect(person.rows_in_state(name, "Done")).to_have_count(1, timeout=PATIENCE_MS)
    assert sums(person, name) == [sha256(second)]
    assert person.offset_of(left["id"]) == left["offset"]


def pause(person: Person, path: Path) -> None:
    person.line(SLOW)
    person.choose(path)
    person.see_upload(path.name, 25)
    person.row(path.name).get_by_role("button", name="Pause").click()
    person.see_state(path.name, "Paused")
    person.line(-1)


def resume(person: Person, filename: str) -> None:
    person.row(filename).get_by_role("button", name="Resume").click()


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"one more")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (append, "was changed, or can no longer be read"),
    "written anew": (lambda path: path.write_bytes(content(13)), "was changed, or can no longer be read"),
    "deleted": (Path.unlink, "was moved or removed"),
    "moved": (lambda path: path.rename(path.with_name("elsewhere")), "was moved or removed"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_is_no_longer_what_was_chosen(person: Person, tmp_path: Path, what: str) -> None:
    change, told = CHANGES[what]
    path = write(tmp_path / f"{what.replace(' ', '-')}.bin", content(12))
    pause(person, path)
    before = person.see_offset(path.name, 1)
    change(path)
    resume(person, path.name)
    person.see_state(path.name, "Stopped")
    expect(person.row(path.name)).to_contain_text(told)
    expect(person.row(path.name)).to_contain_text("What the server has stored is kept")
    person.photograph(f"file-{what.replace(' ', '-')}")
    assert person.offset_of(before["id"]) == before["offset"]
    # What is there again goes on, whatever was pressed.
    offsets = person.watch_offsets()
    if what == "moved":
        path.with_name("elsewhere").rename(path)
        person.row(path.name).get_by_role("button", name="Try again").click()
    else:
        if what == "deleted":
            person.row(path.name).get_by_role("button", name="Dismiss").click()
        person.choose(write(path, content(12)))
    person.see_state(path.name, "Done")
    expect(person.row(path.name)).to_have_count(1)
    assert offsets == [str(before["offset"])]
    assert sums(person, path.name) == [sha256(content(12))]


def test_a_file_that_became_another_one_in_a_pause(person: Person, tmp_path: Path) -> None:
    """A change that the browser does not notice: size and date are as they were."""
    path = write(tmp_path / "swapped.bin", content(14))
    pause(person, path)
    before = person.see_offset(path.name, 1)
    write(path, content(15))
    resume(person, path.name)
    expect(person.row(path.name)).to_have_count(2, timeout=PATIENCE_MS)
    expect(person.rows_in_state(path.name, "Done")).to_have_count(1, timeout=PATIENCE_MS)
    assert sums(person, path.name) == [sha256(content(15))]
    assert person.offset_of(before["id"]) == before["offset"]


def test_a_file_that_becomes_another_one_while_it_is_sent(person: Person, tmp_path: Path) -> None:
    """What arrives is a mixture then. It is told, in every window, and nothing is made of it."""
    path = write(tmp_path / "mixed.bin", content(16))
    person.line(SLOW)
    person.choose(path)
    # The page has read the whole file, and told the server what it must be.
    person.see_expected(path.name, sha256(content(16)))
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(content(17, SIZE - SIZE // 2))
    os.utime(path, ns=(MOMENT, MOMENT))
    person.line(-1)
    person.see_state(path.name, "Not what was sent")
    expect(person.page.locator("#notice")).to_contain_text("What arrived is not the file that was sent")
    expect(person.row(path.name).get_by_role("button", name="Process again")).to_be_hidden()
    person.photograph("not-what-was-sent")
    [upload] = [upload for upload in person.uploads() if upload["filename"] == path.name]
    assert (upload["state"], upload["content_url"]) == ("failed", None)
    person.page.get_by_role("link", name=path.name).click()
    expect(person.page.locator("#upload")).to_contain_text("Delete this upload, then send the file again")
    assert person.page.get_by_role("link", name="Download the file").count() == 0
    person.photograph("not-what-was-sent-file")


def test_an_upload_that_others_have_finished(browser: Browser, app: LocalApp, tmp_path: Path) -> None:
    """The page was closed when all had arrived, and before it knew: another file must not be taken for done."""
    name = "finished.bin"
    context = browser.new_context()
    person = Person(context, app)
    person.sign_in()
    left = begin_and_leave(person, write(tmp_path / "one" / name, content(18)))
    remembered = person.page.evaluate("Object.values(localStorage).find((text) => text.includes('uploadUrl'))")
    url = re.search(r'"uploadUrl":"([^"]+)"', remembered)
    assert url is not None
    answer = context.request.patch(
        url[1],
        headers={
            "Tus-Resumable": "1.0.0",
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": str(left["offset"]),
        },
        data=content(18)[int(str(left["offset"])) :],
    )
    assert answer.status == 204
    person.choose(write(tmp_path / "two" / name, content(19)))
    expect(person.rows_in_state(name, "Done")).to_have_count(2, timeout=PATIENCE_MS)
    assert sums(person, name) == sorted(sha256(content(seed)) for seed in (18, 19))
    context.close()


@pytest.mark.parametrize("missing", ["digests", "static/hash.js"])
def test_a_host_of_an_earlier_release_cannot_compare(person: Person, tmp_path: Path, missing: str) -> None:
    """While a release rolls over the web hosts, the page may be of one release and the host that it asks of another."""
    path = write(tmp_path / f"rolling-{missing.replace('/', '-')}.bin", content(20))
    left = begin_and_leave(person, path)
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=404, body="Not Found", content_type="text/plain")
        else:
            route.continue_()

    person.page.context.route(f"**/{missing}", answer)
    offsets = person.watch_offsets()
    person.choose(path)
    person.see_state(path.name, "Done")
    assert len(asked) >= 2
    assert offsets == [str(left["offset"])]


def test_the_same_file_in_two_tabs_is_one_upload(person: Person, tmp_path: Path) -> None:
    """Each compares whenever it takes the upload from the other, and both get on."""
    path = write(tmp_path / "shared.bin", content(21))
    person.line(SLOW / 2)
    person.choose(path)
    person.see_upload(path.name, 15)
    other = Person(person.context, person.app)
    other.page.goto(person.app.url)
    other.see_live()
    other.line(SLOW / 2)
    other.choose(path)
    other.see_upload(path.name, 40)
    for tab in (person, other):
        tab.line(-1)
    for tab in (person, other):
        tab.see_state(path.name, "Done")
    assert sums(person, path.name) == [sha256(content(21))]
    assert len([upload for upload in person.uploads() if upload["filename"] == path.name]) == 1
    assert other.complaints == []


def test_another_file_that_begins_like_the_first(person: Person, tmp_path: Path) -> None:
    """All that is stored is the same, so only the whole can tell: before the other file has been sent for nothing."""
    size = 80_000_000
    first = content(22, size)
    second = first[: size // 2] + content(23, size - size // 2)
    name = "beginning.bin"
    person.line(SLOW)
    person.choose(write(tmp_path / "one" / name, first))
    person.see_upload(name, 10)
    person.see_expected(name, sha256(first))
    person.page.reload()
    person.see_live()
    person.see_offset(name, 1_000_000)
    person.line(SLOW)
    person.choose(write(tmp_path / "two" / name, second))
    expect(person.row(name)).to_have_count(2, timeout=PATIENCE_MS)
    expect(person.rows_in_state(name, "Uploading").filter(has_text=ANOTHER)).to_have_count(1, timeout=PATIENCE_MS)
    person.line(-1)
    person.choose(tmp_path / "one" / name)
    expect(person.rows_in_state(name, "Done")).to_have_count(2, timeout=PATIENCE_MS)
    assert sums(person, name) == sorted([sha256(first), sha256(second)])


def test_one_that_failed_keeps_nobody_waiting(person: Person, tmp_path: Path) -> None:
    """A file that cannot be read any more is not tried again before the files that are chosen next."""
    gone = write(tmp_path / "gone.bin", content(24))
    pause(person, gone)
    gone.unlink()
    resume(person, gone.name)
    person.see_state(gone.name, "Stopped")
    person.choose(write(tmp_path / "next.bin", content(25)))
    person.see_state("next.bin", "Done")
    person.see_state(gone.name, "Stopped")
    row = person.row(gone.name)
    row.get_by_role("button", name="Try again").click()
    expect(row).to_contain_text("was moved or removed", timeout=PATIENCE_MS)
    person.see_state(gone.name, "Stopped")
