"""The processor inspect_file: what it finds in files of many kinds, and that large ones need little memory."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import struct
import subprocess
import sys
import wave
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.support import PROCESSORS

SCRIPT = PROCESSORS / "inspect_file.py"


def run(path: Path, filename: str = "") -> tuple[int, list[dict[str, Any]]]:
    """Run the script as its contract says; returns exit code and lines."""
    job = {"input": str(path), "output": str(path.parent), "filename": filename or path.name}
    done = subprocess.run(
        [sys.executable, SCRIPT], input=json.dumps(job), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def inspect(folder: Path, content: bytes, filename: str = "file") -> dict[str, Any]:
    """The report on a file of that content."""
    path = folder / "input"
    path.write_bytes(content)
    code, lines = run(path, filename)
    assert code == 0
    assert lines[-1]["progress"] == 1.0
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["sha256"] == hashlib.sha256(content).hexdigest()
    assert report["size"] == len(content)
    assert report["sha256"] in (folder / "report.txt").read_text(encoding="utf-8")
    assert lines[-1]["media_type"] == report["type"]["media_type"]
    return report


@pytest.mark.parametrize(
    ("content", "encoding", "counts"),
    [
        (b"one two\nthree\n", "UTF-8", (2, 3, 14, 7)),
        (b"one two\r\nthree", "UTF-8", (2, 3, 14, 7)),
        (b"\n\n", "UTF-8", (2, 0, 2, 0)),
        ("für Übung\n".encode(), "UTF-8", (1, 2, 10, 9)),
        ("für Übung\n".encode("utf-8-sig"), "UTF-8 with byte order mark", (1, 2, 10, 9)),
        ("für Übung\n".encode("utf-16"), "UTF-16", (1, 2, 10, 9)),
        ("für Übung\n".encode("utf-32"), "UTF-32", (1, 2, 10, 9)),
        ("für Übung\n".encode("latin-1"), "8-bit, not UTF-8 (perhaps Latin-1 or Windows-1252)", (1, 2, 10, 9)),
    ],
)
def test_text(tmp_path: Path, content: bytes, encoding: str, counts: tuple[int, ...]) -> None:
    text = inspect(tmp_path, content)["text"]
    assert text["encoding"] == encoding
    assert (text["lines"], text["words"], text["characters"], text["longest_line"]) == counts


def test_counts_do_not_depend_on_where_a_piece_ends(tmp_path: Path) -> None:
    # Words, lines, a CR LF and characters of several bytes lie across the boundaries of the script's pieces (1 MiB).
    rng = random.Random(1)  # noqa: S311  # the same bytes in each run
    words = ["wort", "größer", "日本", "x" * 700]
    lines = [" ".join(rng.choices(words, k=rng.randrange(12))) for _ in range(4000)]
    content = "\r\n".join(lines)
    assert len(content.encode()) > 3 << 20
    text = inspect(tmp_path, content.encode())["text"]
    assert text["lines"] == 4000 - (lines[-1] == "")
    assert text["words"] == len(content.split())
    assert text["characters"] == len(content)
    assert text["longest_line"] == max(map(len, lines))


def test_text_that_turns_out_to_be_none(tmp_path: Path) -> None:
    report = inspect(tmp_path, b"text\n" * 300_000 + b"\0\1\2")
    assert report["text"] is None
    assert report["type"]["media_type"] == "application/octet-stream"


def test_a_late_byte_that_is_not_utf8(tmp_path: Path) -> None:
    text = inspect(tmp_path, b"text\n" * 300_000 + b"\xfc\n")["text"]
    assert text["encoding"].startswith("8-bit")
    assert text["lines"] == 300_001


def test_an_empty_file(tmp_path: Path) -> None:
    report = inspect(tmp_path, b"")
    assert report["type"]["description"] == "empty file"
    assert report["text"] is None


def test_names_decide_only_what_content_does_not(tmp_path: Path) -> None:
    assert inspect(tmp_path, b"a,b\n1,2\n", "table.csv")["type"]["media_type"] == "text/csv"
    assert inspect(tmp_path, b"\x7fELF\2\1\1" + bytes(100), "holiday.jpg")["type"]["description"].startswith("ELF")


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = (b"\0" + bytes(3 * width)) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    profile = b"\xff\xe1" + struct.pack(">H", 60002) + bytes(60000)
    tables = b"\xff\xc4\x00\x05\x00\x00\x00"
    frame = b"\xff\xff\xc2" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8\xff\xe0\x00\x10JFIF\0" + bytes(9) + profile + tables + frame + b"\xff\xd9"


def webp(width: int, height: int) -> bytes:
    body = b"VP8X" + struct.pack("<II", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (png(640, 480), "PNG"),
        (jpeg(640, 480), "JPEG"),
        (b"GIF89a" + struct.pack("<HHBBB", 640, 480, 0, 0, 0) + b";", "GIF"),
        (b"BM" + struct.pack("<IIIIiiHH", 0, 0, 54, 40, 640, -480, 1, 24) + bytes(24), "BMP"),
        (webp(640, 480), "WebP"),
    ],
)
def test_images(tmp_path: Path, content: bytes, name: str) -> None:
    report = inspect(tmp_path, content)
    assert report["image"]["format"] == name
    assert (report["image"]["width"], report["image"]["height"]) == (640, 480)
    assert report["type"]["media_type"].startswith("image/")
    assert report["text"] is None


@pytest.mark.parametrize("length", [10, 27, 60_000])
def test_images_that_are_cut_off_do_no_harm(tmp_path: Path, length: int) -> None:
    assert inspect(tmp_path, jpeg(640, 480)[:length])["image"] is None


def test_sound(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(4 * 8000 * 3))
    report = inspect(tmp_path, (tmp_path / "sound.wav").read_bytes())
    assert report["sound"] == {"format": "WAV", "channels": 2, "sample_rate": 8000, "bits": 16, "duration": 3.0}


def test_a_recording_that_was_interrupted(tmp_path: Path) -> None:
    header = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16) + b"data\0\0\0\0"
    assert inspect(tmp_path, header + bytes(16000))["sound"]["duration"] == 1.0


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    code, lines = run(tmp_path / "missing")
    assert code == 1
    assert "could not be read" in lines[-1]["error"]


def test_large_files_need_little_memory_and_show_progress(tmp_path: Path) -> None:
    path = tmp_path / "input"
    with path.open("wb") as file:
        file.write(b"begin\n")
        os.truncate(file.fileno(), 1 << 30)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    code, lines = run(path)
    assert code == 0
    fractions = [line["progress"] for line in lines]
    assert fractions == sorted(fractions)
    assert any(0 < fraction < 1 for fraction in fractions)
    # In KiB. The largest of all children so far, so it can only fail for a script that takes more than all of them.
    assert max(before, 64 * 1024) >= resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
