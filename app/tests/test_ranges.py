"""Byte ranges as browsers and download managers send them."""

from __future__ import annotations

import pytest

from longhaul.web.api import disposition
from longhaul.web.ranges import Span, Unsatisfiable, parse_range
from longhaul.web.views import size_text


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None),
        ("bytes=0-0", Span(0, 1)),
        ("bytes=10-", Span(10, 100)),
        ("bytes=10-19", Span(10, 20)),
        ("bytes=10-1000", Span(10, 100)),
        ("bytes=-5", Span(95, 100)),
        ("bytes=-500", Span(0, 100)),
        ("BYTES = 3-4", Span(3, 5)),
        ("bytes=0-1,5-6", None),
        ("bytes=5-4", None),
        ("items=0-1", None),
        ("bytes=", None),
        ("bytes=-", None),
    ],
)
def test_ranges(header: str | None, span: Span | None) -> None:
    assert parse_range(header, 100) == span


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_ranges_outside(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, 100)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.txt", "attachment; filename=\"a.txt\"; filename*=UTF-8''a.txt"),
        ("../etc/passwd", "attachment; filename=\"_etc_passwd\"; filename*=UTF-8''_etc_passwd"),
        ('a"\r\nX: y', "attachment; filename=\"a___X_ y\"; filename*=UTF-8''a___X_%20y"),
        ("bücher.txt", "attachment; filename=\"b_cher.txt\"; filename*=UTF-8''b%C3%BCcher.txt"),
        ("..", "attachment; filename=\"file\"; filename*=UTF-8''file"),
    ],
)
def test_names_of_downloads_are_harmless(name: str, shown: str) -> None:
    assert disposition(name) == shown


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 KB"),
        (1_500_000, "1.5 MB"),
        (99_950_000, "100 MB"),
        (999_600, "1 MB"),
        (3_000_000_000, "3 GB"),
    ],
)
def test_sizes_in_words(count: int, text: str) -> None:
    assert size_text(count) == text
