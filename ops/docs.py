"""Generated files: the table of variables in each role's README, from its argument_specs and defaults; and the copy of
the policy that the application carries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ops import policy
from ops.cli import console, task
from ops.errors import Failure
from ops.paths import ROLES, ROOT

START = "<!-- variables: start -->"
END = "<!-- variables: end -->"
# Longer defaults are only pointed to: a table is for reading.
LONGEST_DEFAULT = 60


@task()
def build(_context: object) -> None:
    """Write all generated pages and files."""
    for path, text in pages().items():
        if path.read_text() != text:
            path.write_text(text)
            console.print(f"wrote {path.relative_to(ROOT)}")


@task()
def check(_context: object) -> None:
    """Fail if a generated page or file is out of date."""
    stale = [str(path.relative_to(ROOT)) for path, text in pages().items() if path.read_text() != text]
    if stale:
        raise Failure(f"Not up to date: {', '.join(stale)}.", "Run: ./inv docs.build")


def pages() -> dict[Path, str]:
    """Every file with a generated part, and what it should be."""
    readmes = {path: with_variables(path) for path in sorted(ROLES.glob("*/README.md"))}
    return readmes | {policy.COPY: policy.copy_for_app()}


def with_variables(readme: Path) -> str:
    """The text of a role's README with its table of variables.

    Raises Failure if the page has no place for the table.
    """
    text = readme.read_text()
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise Failure(f"{readme} has no place for its table of variables.", f"Add the lines '{START}' and '{END}'.")
    before, after = text[: text.index(START)], text[text.index(END) :]
    return f"{before}{START}\n{variables_table(readme.parent)}{after}"


def variables_table(role: Path) -> str:
    """The variables of a role as a Markdown table."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"].get("options") or {}
    if not options:
        return "The role has no variables of its own.\n"
    path = role / "defaults" / "main.yml"
    defaults = (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}
    lines = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, option in options.items():
        lines += _rows(name, option, _default(name, option, defaults))
    return "\n".join(lines) + "\n"


def _rows(name: str, option: Mapping[str, Any], default: str) -> Iterator[str]:
    kind = option.get("type", "str")
    if "elements" in option:
        kind = f"{kind} of {option['elements']}"
    yield f"| `{name}` | {kind} | {default} | {_meaning(option)} |"
    for key, below in (option.get("options") or {}).items():
        yield from _rows(f"{name}[].{key}" if "elements" in option else f"{name}.{key}", below, "")


def _meaning(option: Mapping[str, Any]) -> str:
    description = option.get("description", "")
    text = " ".join(description) if isinstance(description, list) else str(description)
    text = re.sub(r"\s+", " ", text).strip().replace("|", "\\|")
    if "choices" in option:
        text += f"; one of {', '.join(f'`{choice}`' for choice in option['choices'])}"
    return text


def _default(name: str, option: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    if name not in defaults:
        return "required" if option.get("required") else "none"
    value = defaults[name]
    shown = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    if len(shown) > LONGEST_DEFAULT:
        return "see `defaults/main.yml`"
    return f"`{shown}`".replace("|", "\\|")
