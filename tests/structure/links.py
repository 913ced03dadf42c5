"""The rules of pages: what a page names exists. Each takes a page and yields one line per violation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
COMMAND = re.compile(r"\./inv +([^;]+)")
PATH = re.compile(r"[\w.*<>/-]+")
PLACEHOLDER = re.compile(r"<\w+>")


def links(page: Path) -> Iterator[str]:
    """Every relative link leads to a file, and to one of its headings if it names one."""
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists():
            yield f"{page.name}: the link {target} leads nowhere"
        elif anchor and anchor not in anchors(file):
            yield f"{page.name}: {file.name} has no heading for {target}"


def anchors(page: Path) -> Set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def paths(page: Path, root: Path, folders: Set[str], made: Set[str]) -> Iterator[str]:
    """Every path in backticks that begins with one of the repository's `folders` exists, or is `made` by a task.

    `<env>` and `*` stand for any name.
    """
    for span in _spans(page):
        if not PATH.fullmatch(span) or span.partition("/")[0] not in folders or span in made:
            continue
        if not any(root.glob(PLACEHOLDER.sub("*", span))):
            yield f"{page.name}: there is no {span}"


def commands(page: Path, tasks: Mapping[str, Set[str]]) -> Iterator[str]:
    """Every `./inv` command names a task, and only options that the task has. `tasks` is task -> its options."""
    lines = [line for block in FENCED.findall(page.read_text()) for line in block.splitlines()]
    for text in (*lines, *_spans(page)):
        for command in COMMAND.findall(text.partition(" #")[0]):
            task, *words = command.split()
            if task.startswith(("-", ".", "<")):
                continue
            if task not in tasks:
                yield f"{page.name}: there is no task {task}"
                continue
            own = words[: words.index("--")] if "--" in words else words
            for word in own:
                if word.startswith("--") and (option := word.partition("=")[0]) not in tasks[task]:
                    yield f"{page.name}: {task} has no option {option}"


def _spans(page: Path) -> list[str]:
    return [" ".join(span.split()) for span in SPAN.findall(FENCED.sub("", page.read_text()))]
