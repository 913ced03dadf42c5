"""The page of a recorded trace: what it holds, that nothing of the trace is markup in it, and how it is used."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from ops.errors import Failure
from ops.trace.columns import columns
from ops.trace.page import page
from ops.trace.recording import About, HostLine, Recording, as_text, read
from tests.support.chromium import FLAGS, chromium_program

BEGAN = 1_795_981_400.0
SHOP = "/srv/shop/shop.py"
GONE = "/srv/shop/gone.py"
# What could end the script element, begin a comment in it, end a line of JavaScript, or is not valid UTF-16.
HOSTILE = "</script><script>document.title = 'owned'</script><!--<img src=x onerror=\"document.title = 'owned'\">"
ODD = "\u2028\u2029\ud800 &lt; \x1b[31m"
SOURCE = f"""\
def total(items):
    total = 0
    for price in items:
        total += price
    raise ValueError("<b>no</b>")  # {HOSTILE}


total([1, 2])
"""
LINES = SOURCE.split("\n")


def about(**more: Any) -> About:
    values = {
        "environment": "staging",
        "what": f"POST /checkout {HOSTILE}",
        "by": "ann",
        "reason": "receipts are slow",
        "began": "2026-11-29T20:43:20+01:00",
        "seconds": 0.01,
        "ended": "its request was served",
        "lines": 21,
        "dropped": 3,
        "hosts": ["web1", "web2"],
    }
    return cast(About, values | more)


def line(at: int, number: int, source: str = "", **more: Any) -> HostLine:
    """A line that began `at` milliseconds after the first."""
    values = {
        "time": BEGAN + at / 1000,
        "host": "web1",
        "process": "web-1",
        "kind": "line",
        "module": "shop",
        "line": number,
        "source": source or LINES[number - 1],
        "file": SHOP,
        "thread": 7,
        "ids": {"request": "r1"},
    }
    return cast(HostLine, values | more)


def on_web2(at: int, number: int, source: str = "") -> HostLine:
    more = {"host": "web2", "process": "web-2", "ids": {"request": "r2", "upload": "u<b>2</b>"}}
    return line(at, number, source, module="gone", file=GONE, **more)


RECORDING = Recording(
    about(),
    {SHOP: SOURCE},
    [
        line(0, 8),
        line(1, 1, "-> total(items=[1, 2]) depth 2", kind="call"),
        line(1, 1, "== items = [1, 2]", kind="value"),
        line(2, 2),
        line(2, 2, "== total = 0", kind="value"),
        line(3, 3),
        line(3, 3, "== price = 1", kind="value"),
        line(4, 4),
        line(6, 4, "== total = 1", kind="value"),
        line(6, 3, since=0.002),
        line(6, 3, "== price = 2", kind="value"),
        line(7, 4),
        line(8, 4, "== total = 3", kind="value"),
        line(8, 5),
        line(9, 5, "!! ValueError('<b>no</b>')", kind="exception"),
        line(10, 8, "!! ValueError('<b>no</b>')", kind="exception"),
        on_web2(1, 3, "<i>first</i> = 1"),
        on_web2(5, 30, f"second = 2  # {ODD}"),
        line(11, 0, "## ended: its request was served; 21 lines", kind="notice", module="linetrace", file="", thread=0),
    ],
)


# --- JSON and text --------------------------------------------------------------------------------------------------


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    RECORDING.write(path)
    assert read(path) == RECORDING
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"about": {"what": "x"}, "sources": {}, "lines": []}'])
def test_another_file_is_not_a_recording(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(Failure, match="is not a recorded trace"):
        read(path)


def test_the_text_has_a_line_for_each() -> None:
    lines = as_text(RECORDING).splitlines()
    assert lines[0] == "20:43:20.000 web1 r1 shop:8: total([1, 2])"
    assert lines[3] == "20:43:20.001 web2 u<b>2</b> gone:3: <i>first</i> = 1"
    assert len(lines) == len(RECORDING.lines)
    assert r"\u2028\u2029\ud800 &lt; \x1b[31m" in as_text(RECORDING)


def test_the_text_says_what_a_line_was_for() -> None:
    shown = [line(0, 8, ids={}), line(1, 8, ids={"job": "5", "user": "ann"}), line(2, 8, ids={"user": "ann"})]
    texts = as_text(Recording(about(), {}, shown)).splitlines()
    assert [text.split()[2] for text in texts] == ["-", "5", "-"]


# --- Columns --------------------------------------------------------------------------------------------------------


def steps(lines: list[HostLine], sources: dict[str, str] | None = None) -> list[tuple[int, str, int, list[str]]]:
    """Line, text, depth and values of each step."""
    made = columns(Recording(about(), {SHOP: SOURCE} if sources is None else sources, lines))
    values: dict[int, list[str]] = {}
    for step, text in zip(made["values"]["step"], made["values"]["text"], strict=True):
        values.setdefault(step, []).append(made["values"]["texts"][text])
    depths = made["steps"]["depth"] or [0] * len(made["steps"]["place"])
    places = [made["places"][place] for place in made["steps"]["place"]]
    return [(places[at][3], places[at][4], depths[at], values.get(at, [])) for at in range(len(places))]


def test_values_belong_to_the_step_that_made_them() -> None:
    found = steps([each for each in RECORDING.lines if each["host"] == "web1"])
    assert [(number, depth, values) for number, _, depth, values in found] == [
        (8, 1, []),
        (1, 2, ["items = [1, 2]"]),
        (2, 2, ["total = 0"]),
        (3, 2, ["price = 1"]),
        (4, 2, ["total = 1"]),
        (3, 2, ["price = 2"]),
        (4, 2, ["total = 3"]),
        (5, 2, []),
        (5, 2, []),
        (8, 1, []),
        (0, 1, []),
    ]


def test_arguments_have_a_step_if_calls_are_not_recorded() -> None:
    found = steps([line(0, 1), line(1, 1, "== total = <function>", kind="value"), line(2, 8)])
    assert found[0] == (1, LINES[0], 0, ["total = <function>"])
    found = steps([line(0, 1), line(1, 8), line(2, 1, "== items = [1]", kind="value"), line(3, 2)])
    assert [(number, values) for number, _, _, values in found] == [(1, []), (8, []), (1, ["items = [1]"]), (2, [])]


@pytest.mark.parametrize("sources", [{SHOP: "def f(n):\n    if n:\n        m = f(n - 1)\n    return n\n"}, {}])
def test_a_return_ends_its_call_of_a_recursion(sources: dict[str, str]) -> None:
    found = steps(
        [
            line(0, 1, "-> f(n=1) depth 1", kind="call"),
            line(1, 3, "m = f(n - 1)"),
            line(2, 1, "-> f(n=0) depth 2", kind="call"),
            line(3, 4, "return n"),
            line(4, 4, "<- f = 0", kind="return"),
            line(5, 3, "== m = 0", kind="value"),
            line(6, 4, "return n"),
        ],
        sources,
    )
    assert [(number, depth, values) for number, _, depth, values in found] == [
        (1, 1, []),
        (3, 1, ["m = 0"]),
        (1, 2, []),
        (4, 2, []),
        (4, 2, []),
        (4, 1, []),
    ]


def test_an_exception_ends_the_calls_that_it_passes() -> None:
    source = "def f(n):\n    return 1 / n if n == 0 else f(n - 1)\n"
    found = steps(
        [
            line(0, 1, "-> f(n=1) depth 1", kind="call"),
            line(1, 2),
            line(2, 1, "-> f(n=0) depth 2", kind="call"),
            line(3, 2),
            line(4, 2, "!! ZeroDivisionError()", kind="exception"),
            line(5, 2, "!! ZeroDivisionError()", kind="exception"),
        ],
        {SHOP: source},
    )
    assert [depth for _, _, depth, _ in found] == [1, 1, 2, 2, 2, 1]


def test_a_generator_that_goes_on_is_one_call_deeper() -> None:
    source = "def two():\n    yield 1\n    yield 2\n\n\nfor n in two():\n    print(n)\n"
    found = steps(
        [
            line(0, 1, "-> <module>() depth 1", kind="call"),
            line(1, 6, "for n in two():"),
            line(2, 1, "-> two() depth 2", kind="call"),
            line(3, 2, "    yield 1"),
            line(4, 2, "<~ two = 1", kind="yield"),
            line(5, 7, "    print(n)"),
            line(6, 3, "    yield 2"),
            line(7, 3, "<~ two = 2", kind="yield"),
            line(8, 7, "    print(n)"),
        ],
        {SHOP: source},
    )
    assert [depth for _, _, depth, _ in found] == [1, 1, 2, 2, 2, 1, 2, 2, 1]


def test_the_time_of_a_line_is_that_until_the_next_of_its_scope() -> None:
    made = columns(RECORDING)
    took = {
        (made["places"][place][0], made["places"][place][3]): tenths / 10
        for place, tenths in zip(made["steps"]["place"], made["steps"]["took"], strict=True)
        if tenths >= 0
    }
    # Line 4 was executed twice; web2 has times of its own, and a call does not count.
    assert took == {("line", 8): 2000, ("line", 2): 1000, ("line", 3): 1000, ("line", 4): 1000}


def test_what_is_the_same_stands_once() -> None:
    many = [line(at, 3 + at % 2) for at in range(20_000)]
    small = len(page(Recording(about(), {SHOP: SOURCE}, many[:2])))
    assert (len(page(Recording(about(), {SHOP: SOURCE}, many))) - small) / len(many) < 20


# --- The HTML -------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The elements of a page, and what its scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.policy = ""
        self.within = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.within = tag == "script"
        self.scripts += [""] * self.within
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self.within = False

    def handle_data(self, data: str) -> None:
        if self.within:
            self.scripts[-1] += data


def test_nothing_of_the_trace_is_markup() -> None:
    hostile = Recording(
        about(hosts=[HOSTILE, ODD]),
        {HOSTILE: HOSTILE + ODD, ODD: ""},
        [line(0, 1, HOSTILE + ODD, file=HOSTILE, module=HOSTILE, host=HOSTILE, process=ODD, ids={HOSTILE: HOSTILE})],
    )
    shown = Elements(page(hostile))
    assert shown.tags == Elements(page(Recording(about(what="nothing"), {}, []))).tags
    held = json.loads(shown.scripts[0])
    assert held["files"][0] == {"path": HOSTILE, "source": HOSTILE + ODD, "functions": []}
    assert held["places"] == [["line", HOSTILE, 0, 1, HOSTILE + ODD]]
    page(hostile).encode("ascii", "xmlcharrefreplace")
    assert page(hostile).encode("utf-8")


def test_only_the_script_of_the_page_may_run() -> None:
    shown = Elements(page(RECORDING))
    digest = base64.b64encode(hashlib.sha256(shown.scripts[1].encode()).digest()).decode()
    assert shown.policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


# --- In a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page in Chromium. In the end nothing may have gone wrong, and nothing of the trace may be an element."""
    file = tmp_path_factory.mktemp("page") / "trace.html"
    file.write_text(page(RECORDING))
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_program(), args=FLAGS)
        shown = browser.new_page(viewport={"width": 1600, "height": 900})
        shown.set_default_timeout(5_000)
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("request", lambda request: complaints.append(request.url) if request.url != file.as_uri() else None)
        shown.goto(file.as_uri())
        shown.wait_for_selector("html[data-ready]")
        yield shown
        assert shown.title().startswith("Trace: POST /checkout </script><script>")
        assert shown.locator("main :is(b, i:not(.host i), img, script, style)").count() == 0
        browser.close()
    assert complaints == []


@pytest.fixture
def shown(opened: Page) -> Page:
    """The page as it is in the beginning: at its first step, without filters and without a search."""
    if opened.locator("#all").is_visible():
        opened.click("#all")
    opened.fill("#search", "")
    opened.press("#search", "Escape")
    opened.press("body", "Home")
    return opened


def place(shown: Page) -> str:
    """Number of the step, its line, and what stands there."""
    shown.wait_for_function(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)) || 1)"
    )
    return f"{shown.inner_text('#position')} {shown.inner_text('#step-place')} {shown.inner_text('#step-what')}"


def test_the_path_is_stepped_through(shown: Page) -> None:
    assert place(shown) == "1 of 13 shop:8 total([1, 2])"
    shown.keyboard.press("ArrowRight")
    assert place(shown).split("\n")[0] == "2 of 13 shop:1 →total(items=[1, 2])"
    shown.keyboard.press("j")
    assert place(shown) == "3 of 13 gone:3 <i>first</i> = 1"
    shown.keyboard.press("j")
    shown.click("#next")
    assert place(shown) == "5 of 13 shop:3 for price in items:"
    current = shown.locator("#source-lines .current")
    expect(current).to_have_text("22.00 ms3    for price in items:price = 1")
    expect(current.locator(".hits")).to_have_text("2")
    shown.keyboard.press("n")
    assert place(shown).startswith("8 of 13 shop:3")
    expect(shown.locator("#step-variables")).to_have_text("items[1, 2]price2total1")
    shown.keyboard.press("k")
    shown.keyboard.press("ArrowLeft")
    assert place(shown).startswith("6 of 13 shop:4")
    shown.fill("#slider", "12")
    assert place(shown).startswith("13 of 13 linetrace")
    shown.focus("#path-steps")
    shown.keyboard.press("Home")
    shown.keyboard.press("ArrowDown")
    assert place(shown).startswith("2 of 13")


def test_exceptions_are_listed_and_found(shown: Page) -> None:
    shown.click("#sides [data-to=exceptions]")
    expect(shown.locator("#exceptions-list .row:visible")).to_have_count(1)
    expect(shown.locator("#exceptions-list")).to_contain_text("passes 2 functions")
    shown.keyboard.press("e")
    assert place(shown).startswith("11 of 13 shop:5 ✕ValueError('<b>no</b>')")
    expect(shown.locator("#source-lines .current .raised")).to_have_text("ValueError('<b>no</b>')")
    expect(shown.locator("#source-lines .current .code")).to_contain_text("</script><script>document.title")


@pytest.mark.parametrize(
    ("query", "count"),
    [("total =", "3 found"), ("shop:3", "2 found"), ("/price = [2-9]/", "1 found"), ("TOTAL", "0 found")],
)
def test_the_search_counts_places_and_values(shown: Page, query: str, count: str) -> None:
    shown.fill("#search", query)
    expect(shown.locator("#found")).to_have_text(count)


def test_the_search_goes_from_match_to_match(shown: Page) -> None:
    shown.fill("#search", "/(/")
    expect(shown.locator("#found")).to_have_text("not a regular expression")
    shown.fill("#search", "+= price")
    shown.press("#search", "Enter")
    expect(shown.locator("#found")).to_have_text("1 of 2 found")
    expect(shown.locator("#source-lines mark").first).to_have_text("+= ")
    shown.click("#found-next")
    assert place(shown).startswith("9 of 13 shop:4")
    shown.click("#found-next")
    assert place(shown).startswith("6 of 13 shop:4")


def test_hosts_and_ids_are_filtered(shown: Page) -> None:
    shown.click("#hosts button:has-text('web2')")
    expect(shown.locator("#position")).to_have_text("1 of 11")
    shown.click("#all")
    shown.select_option("#filters select[name=upload]", "u<b>2</b>")
    expect(shown.locator("#position")).to_have_text("1 of 2")
    # Its file was not recorded: what was executed stands for it.
    lines = shown.locator("#source-lines .row:visible")
    expect(lines).to_have_count(4)
    expect(lines.nth(1)).to_contain_text("<i>first</i> = 1")
    expect(lines.nth(2)).to_have_text("lines 4\N{EN DASH}29 were not executed")
    expect(shown.locator("#source-note")).to_be_visible()


def test_the_slowest_line_is_first(shown: Page) -> None:
    shown.click("#sides [data-to=slowest]")
    shown.locator("#slowest-list .row:visible").first.click()
    assert place(shown).startswith("3 of 13 gone:3")
    expect(shown.locator("#slowest-list .row").first).to_contain_text("4.00 ms")


def test_a_trace_without_lines_is_shown(opened: Page, tmp_path: Path) -> None:
    (tmp_path / "empty.html").write_text(page(Recording(about(), {SHOP: SOURCE}, [])))
    assert opened.context.browser is not None
    empty = opened.context.browser.new_page()
    complaints: list[str] = []
    empty.on("pageerror", lambda error: complaints.append(str(error)))
    empty.goto((tmp_path / "empty.html").as_uri())
    expect(empty.locator("#position")).to_have_text("0 steps")
    expect(empty.locator("#source-lines")).to_contain_text("for price in items")
    empty.keyboard.press("j")
    empty.keyboard.press("e")
    empty.close()
    assert complaints == []


def test_one_part_is_shown_on_a_narrow_screen(shown: Page) -> None:
    shown.set_viewport_size({"width": 375, "height": 800})
    shown.click("#panes [data-to=path]")
    expect(shown.locator("#source-lines")).to_be_hidden()
    expect(shown.locator("#path-steps [aria-selected=true]")).to_be_visible()
    assert shown.evaluate("document.documentElement.scrollWidth") == 375
    shown.set_viewport_size({"width": 1600, "height": 900})
