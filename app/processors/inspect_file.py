"""Tells what is in a file: its type by content, SHA-256, size, and statistics of text or facts of an image or sound.

A processor (see README.md beside this file). Results: `report.json`, and `report.txt` with the same for people.
Reads the input in pieces of CHUNK bytes, so memory does not grow with the file.
"""

import codecs
import hashlib
import json
import mimetypes
import os
import re
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from puremagic.main import identify_all, max_foot, max_head

CHUNK = 1024 * 1024
# Seconds between two progress lines: the page is updated once a second, more would only be thrown away.
REPORT_SECONDS = 0.5
# A magic number of one or two bytes matches one random file in a few hundred: no evidence.
SHORTEST_MAGIC = 3
# Characters that no text file has; tab, line ends, form feed and escape (terminal recordings) are allowed.
NOT_TEXT = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ENCODING_NAMES = {
    "utf-8-sig": "UTF-8 with byte order mark",
    "utf-8": "UTF-8",
    "utf-16": "UTF-16",
    "utf-32": "UTF-32",
    "latin-1": "8-bit, not UTF-8 (perhaps Latin-1 or Windows-1252)",
}
MEDIA_TYPES = {
    "PNG": "image/png",
    "GIF": "image/gif",
    "JPEG": "image/jpeg",
    "BMP": "image/bmp",
    "WebP": "image/webp",
    "WAV": "audio/wav",
}
UNITS = {"duration": " s", "sample_rate": " Hz", "width": " px", "height": " px"}


class NotTextError(Exception):
    """The bytes are not text in the encoding that was tried."""


class Progress:
    """Writes progress lines. `total` is in bytes, over all passes through the file."""

    def __init__(self, total: int) -> None:
        self.total = max(total, 1)
        self.done = 0
        self._next = 0.0

    def advance(self, count: int, message: str) -> None:
        self.done += count
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REPORT_SECONDS
            say(progress=min(1.0, self.done / self.total), message=message)


def say(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


@dataclass
class TextStatistics:
    """Counts over a text that is fed in pieces. `longest_line` is in characters without the line's end."""

    encoding: str
    characters: int = 0
    words: int = 0
    newlines: int = 0
    longest_line: int = 0
    _decoder: codecs.IncrementalDecoder = field(init=False, repr=False)
    _open_line: int = field(default=0, repr=False)
    _in_word: bool = field(default=False, repr=False)
    _held: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder(self.encoding)()

    def feed(self, data: bytes, final: bool = False) -> None:
        """Counts one piece; raises NotTextError when the bytes cannot be text in this encoding."""
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise NotTextError from error
        if NOT_TEXT.search(text):
            raise NotTextError
        text = self._held + text
        # The line feed that belongs to it may come with the next piece.
        self._held = "\r" if text.endswith("\r") and not final else ""
        text = text.removesuffix(self._held)
        if not text:
            return
        self.characters += len(text)
        # A word that goes on from the last piece was counted there.
        self.words += len(text.split()) - (self._in_word and not text[0].isspace())
        self._in_word = not text[-1].isspace()
        lengths = [len(line) for line in text.replace("\r\n", "\n").split("\n")]
        lengths[0] += self._open_line
        self.newlines += len(lengths) - 1
        self._open_line = lengths[-1]
        self.longest_line = max(self.longest_line, *lengths)

    def facts(self) -> dict[str, Any]:
        return {
            "encoding": ENCODING_NAMES[self.encoding],
            # A last line without a newline is a line too.
            "lines": self.newlines + (self._open_line > 0),
            "words": self.words,
            "characters": self.characters,
            "longest_line": self.longest_line,
        }


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while data := stream.read(CHUNK):
            yield data


def candidate_encodings(head: bytes) -> list[str]:
    """The encodings that the first bytes allow, best first; empty for what is certainly not text."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return [encoding]
    return [] if b"\0" in head else ["utf-8", "latin-1"]


def read_through(path: Path, size: int) -> tuple[str, TextStatistics | None]:
    """SHA-256 (hex) and, if the file is text, its statistics.

    One pass; a second one only for a text that turns out not to be UTF-8.
    """
    with path.open("rb") as stream:
        encodings = candidate_encodings(stream.read(CHUNK))
    digest = hashlib.sha256()
    progress = Progress(size)
    statistics = TextStatistics(encodings.pop(0)) if encodings else None
    for data in chunks(path):
        digest.update(data)
        if statistics is not None:
            try:
                statistics.feed(data)
            except NotTextError:
                statistics = None
        progress.advance(len(data), "Reading the file")
    if statistics is not None:
        try:
            statistics.feed(b"", final=True)
        except NotTextError:
            statistics = None
    if statistics is None and encodings:
        statistics = second_reading(path, size, encodings[0])
    return digest.hexdigest(), statistics


def second_reading(path: Path, size: int, encoding: str) -> TextStatistics | None:
    statistics = TextStatistics(encoding)
    progress = Progress(size)
    for data in chunks(path):
        try:
            statistics.feed(data)
        except NotTextError:
            return None
        progress.advance(len(data), "Reading the file as 8-bit text")
    return statistics


def magic_type(head: bytes, tail: bytes, extension: str) -> tuple[str, str] | None:
    """(media type, description) by magic number, or None. `extension` decides only between equal matches."""
    matches = [match for match in identify_all(head, tail, extension) if len(match.byte_match) >= SHORTEST_MAGIC]
    if not matches:
        return None
    best = matches[0]
    return best.mime_type or mimetypes.guess_type("x" + best.extension)[0] or "application/octet-stream", best.name


def type_of(path: Path, size: int, filename: str, is_text: bool) -> dict[str, str]:
    """Media type and description, by content; the name helps only where content says nothing."""
    with path.open("rb") as stream:
        head = stream.read(max_head)
        stream.seek(max(0, size - max_foot))
        tail = stream.read(max_foot)
    if size == 0:
        return {"media_type": "application/x-empty", "description": "empty file"}
    extension = Path(filename).suffix.lower()
    found = magic_type(head, tail, extension)
    if is_text:
        # Many kinds of text have no magic number; for those the name is the best there is.
        by_name = mimetypes.guess_type(filename)[0]
        if found is None or not found[0].startswith(("text/", "application/", "image/svg")):
            found = (by_name if by_name and by_name.startswith("text/") else "text/plain", "text")
    media_type, description = found or ("application/octet-stream", "data of no known type")
    return {"media_type": media_type, "description": description}


def image_facts(path: Path) -> dict[str, Any] | None:
    """Format and size in pixels of a PNG, GIF, JPEG, BMP or WebP, from its headers; None for anything else."""
    with path.open("rb") as stream:
        head = stream.read(32)
        if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR" and len(head) >= 26:
            width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
            colours = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
            name = colours.get(colour, "?")
            return {"format": "PNG", "width": width, "height": height, "bits": depth, "colour": name}
        if head[:6] in (b"GIF87a", b"GIF89a") and len(head) >= 10:
            width, height = struct.unpack("<HH", head[6:10])
            return {"format": "GIF", "width": width, "height": height}
        if head.startswith(b"BM") and len(head) >= 26 and head[14:18] == b"\x28\0\0\0":
            width, height = struct.unpack("<ii", head[18:26])
            return {"format": "BMP", "width": width, "height": abs(height)}
        if head[:4] == b"RIFF" and head[8:15] == b"WEBPVP8":
            return webp_facts(head)
        if head.startswith(b"\xff\xd8\xff"):
            return jpeg_facts(stream)
    return None


def webp_facts(head: bytes) -> dict[str, Any] | None:
    """RFC 9649: the size stands in the first chunk, differently in each of its three kinds."""
    kind, body = head[12:16], head[20:]
    if kind == b"VP8X" and len(body) >= 10:
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
    elif kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and len(body) >= 10:
        width, height = (int.from_bytes(body[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    else:
        return None
    return {"format": "WebP", "width": width, "height": height}


def jpeg_facts(stream: BinaryIO) -> dict[str, Any] | None:
    """Walks the segments (ITU T.81, B.1.1.4) to the first frame header; colour profiles and previews are skipped."""
    stream.seek(2)
    while True:
        marker = stream.read(2)
        if len(marker) < 2 or marker[0] != 0xFF:
            return None
        if marker[1] == 0xFF:  # a fill byte
            stream.seek(-1, os.SEEK_CUR)
            continue
        if marker[1] in (0xD9, 0xDA):  # the image begins or ends without a frame header
            return None
        length_bytes = stream.read(2)
        if len(length_bytes) < 2:
            return None
        length = int.from_bytes(length_bytes, "big")
        # C4, C8 and CC share the range of the frame headers but are tables.
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC):
            frame = stream.read(6)
            if len(frame) < 6:
                return None
            bits, height, width, components = struct.unpack(">BHHB", frame)
            colours = {1: "grey", 3: "colour", 4: "four-colour print"}
            return {
                "format": "JPEG",
                "width": width,
                "height": height,
                "bits": bits,
                "colour": colours.get(components, "?"),
                "progressive": marker[1] == 0xC2,
            }
        if length < 2:
            return None
        stream.seek(length - 2, os.SEEK_CUR)


def sound_facts(path: Path, size: int) -> dict[str, Any] | None:
    """Channels, sample rate and duration (s) of a WAV file from its headers; None for anything else."""
    with path.open("rb") as stream:
        head = stream.read(12)
        if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
            return None
        rate = channels = bits = bytes_per_second = 0
        while len(chunk := stream.read(8)) == 8:
            name, length = chunk[:4], int.from_bytes(chunk[4:], "little")
            if name == b"fmt " and length >= 16:
                _, channels, rate, bytes_per_second, _, bits = struct.unpack("<HHIIHH", stream.read(16))
                stream.seek(length - 16 + length % 2, os.SEEK_CUR)
            elif name == b"data" and bytes_per_second:
                # A recorder that was interrupted leaves a length of zero or "unknown": the file's own end counts.
                there = size - stream.tell()
                length = length if 0 < length <= there else there
                return {
                    "format": "WAV",
                    "channels": channels,
                    "sample_rate": rate,
                    "bits": bits,
                    "duration": round(length / bytes_per_second, 3),
                }
            else:
                stream.seek(length + length % 2, os.SEEK_CUR)
    return None


def readable(report: dict[str, Any]) -> str:
    """The report as lines of `name: value`."""
    lines = [
        f"File:         {report['filename']}",
        f"Size:         {report['size']:,} bytes",
        f"SHA-256:      {report['sha256']}",
        f"Type:         {report['type']['media_type']} ({report['type']['description']})",
    ]
    for part in ("text", "image", "sound"):
        for name, value in (report[part] or {}).items():
            label = name.replace("_", " ").capitalize() + ":"
            lines.append(f"{label:<14}{worded(value)}{UNITS.get(name, '')}")
    return "\n".join(lines) + "\n"


def worded(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def inspect(path: Path, filename: str) -> dict[str, Any]:
    size = path.stat().st_size
    sha256, statistics = read_through(path, size)
    media = {"image": image_facts(path), "sound": sound_facts(path, size)}
    kind = type_of(path, size, filename, statistics is not None)
    for facts in media.values():
        # Headers that make sense are better evidence than a magic number, which may be as short as BMP's two bytes.
        if facts is not None:
            kind = {"media_type": MEDIA_TYPES[facts["format"]], "description": facts["format"]}
    return {
        "filename": filename,
        "size": size,
        "sha256": sha256,
        "type": kind,
        "text": statistics.facts() if statistics is not None and size else None,
        **media,
    }


def main() -> int:
    job = json.load(sys.stdin)
    output = Path(job["output"])
    try:
        report = inspect(Path(job["input"]), job["filename"])
        (output / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (output / "report.txt").write_text(readable(report), encoding="utf-8")
    except OSError as error:
        say(error=f"The file could not be read, or the report not written: {error.strerror}.")
        return 1
    say(progress=1.0, message="Report written", media_type=report["type"]["media_type"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
