"""Generated files: the tables of the roles' variables, the modules and the steps of a deployment in pages, and the copy
of the policy that the application carries.

A page marks the place of a generated part with two comments, `start` and `end`; `./inv docs.build` writes between them.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ops import policy
from ops.deployment import steps
from ops.errors import Failure
from ops.paths import APP, DOCS, FRONTEND, ROLES, ROOT

# Longer defaults are only pointed to: a table is for reading.
LONGEST_DEFAULT = 60
PACKAGES = (ROOT / "ops", APP / "linetrace", APP / "longhaul")
SCRIPTS = FRONTEND / "src"


def pages() -> dict[Path, str]:
    """Every file with a generated part -> the text it should have. Raises Failure if a page lacks the two comments."""
    found = {
        page: with_part(page, "variables", variables_table(page.parent)) for page in sorted(ROLES.glob("*/README.md"))
    }
    layout, deployments = DOCS / "layout.md", DOCS / "deployments.md"
    found[layout] = with_part(layout, "modules", modules())
    found[deployments] = with_part(deployments, "steps", steps.table())
    found[policy.COPY] = policy.copy_for_app()
    return found


def with_part(page: Path, name: str, part: str) -> str:
    """The text of a page with a generated part. Raises Failure if the page lacks the two comments."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    text = page.read_text()
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise Failure(f"{page} has no place for its generated part '{name}'.", f"Add the lines '{start}' and '{end}'.")
    before, after = text[: text.index(start)], text[text.index(end) :]
    return f"{before}{start}\n{part}{after}"


def modules() -> str:
    """Every module of ops/, of app/ and of the frontend, by folder, with the first sentence of its docstring."""
    lines: list[str] = []
    for package in PACKAGES:
        for folder in [package, *sorted(path.parent for path in package.rglob("*/__init__.py"))]:
            lines += _folder(folder, sorted(folder.glob("*.py")))
    lines += _folder(SCRIPTS, sorted(SCRIPTS.glob("*.ts")))
    return "\n".join(lines) + "\n"


def _folder(folder: Path, files: list[Path]) -> Iterator[str]:
    own = next((file for file in files if file.stem == "__init__"), None)
    yield f"\n**{folder.relative_to(ROOT)}/**{f': {first_sentence(own)}' if own else ''}\n"
    yield from ["| module | |", "|---|---|"]
    for file in files:
        if file.stem != "__init__":
            yield f"| `{file.name}` | {first_sentence(file).replace('|', chr(92) + '|')} |"


def first_sentence(file: Path) -> str:
    """The first sentence of a module's docstring or first comment (Python, TypeScript). Raises Failure without one."""
    text = file.read_text()
    if file.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        comment = re.match(r"\s*(?:/\*\*?(.*?)\*/|((?:[ \t]*//[^\n]*\n)+))", text, re.DOTALL)
        said = re.sub(r"(?m)^\s*(//|\*)? ?", "", (comment[1] or comment[2]) if comment else "")
    paragraph = " ".join(said.strip().split("\n\n")[0].split())
    if not paragraph:
        raise Failure(f"{file.relative_to(ROOT)} does not say what it is.", "Begin it with a docstring, or a comment.")
    return re.split(r"(?<=[.:])\s+(?=[A-Z])", paragraph)[0]


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
