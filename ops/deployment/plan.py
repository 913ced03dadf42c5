"""The plan of a deployment, shown before the question: commits, migrations, and the changes that `--check` finds."""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ops.ansible import Change
from ops.deployment.releases import Releases
from ops.paths import ROOT
from ops.release.source import INPUTS

MIGRATIONS = "app/migrations/versions"
SHOWN = 30


@dataclass(frozen=True)
class Migration:
    """A revision file that the new release brings, and its phase."""

    name: str
    phase: str


def commits(before: str, after: str) -> list[str] | None:
    """A line for each commit that `after` has, `before` lacks, and that changes the release; newest first. None if git
    does not know `before` or `after`.
    """
    return _git("log", "--oneline", f"{before}..{after}", "--", *INPUTS)


def migrations(before: str, after: str) -> list[Migration]:
    """The revisions that `after` has and `before` lacks; empty if git does not know `before` or `after`."""
    names = _git("diff", "--name-only", "--diff-filter=A", before, after, "--", MIGRATIONS) or []
    return [Migration(name.rpartition("/")[2], _phase(after, name)) for name in names if name.endswith(".py")]


def commit_of(version: str) -> str:
    """The commit that a version names, abbreviated; "" if it names none."""
    parts = version.split("-")
    return parts[1] if len(parts) > 1 else ""


def show(releases: Mapping[str, Releases], version: str, changes: Sequence[Change] | None) -> None:
    """Print the plan to the terminal. `changes` is None if the roles were not run with --check."""
    console = Console()
    table = Table("host", "has", "will have", title="releases")
    for host, found in releases.items():
        table.add_row(host, found.current or "none", version if found.current != version else "the same")
    console.print(table)
    for host, found in releases.items():
        if found.processors:
            console.print(f"{host} uses processors {found.processors}, shipped to its release; {version} has its own.")
    ((before, _),) = Counter(commit_of(found.current) for found in releases.values()).most_common(1)
    if before:
        _show_code(console, before, commit_of(version))
    if changes is not None:
        console.print(
            table_of(changes) if changes else "The hosts are what the inventory says: nothing to change there."
        )


def _show_code(console: Console, before: str, after: str) -> None:
    brought, taken = commits(before, after), commits(after, before)
    if brought is None or taken is None:
        console.print(f"Commits: this checkout does not know {before}, which the hosts run, or {after}.")
        return
    _show_commits(console, "Commits that are added", brought)
    if taken:
        _show_commits(console, "Commits that are taken back", taken)
    for migration in migrations(before, after):
        note = "" if migration.phase == "expand" else "  (not applied by a deployment: ./inv database.contract)"
        console.print(f"Migration: {migration.name}  {migration.phase}{note}")


def _show_commits(console: Console, title: str, lines: Sequence[str]) -> None:
    console.print(f"{title}: {len(lines)}")
    for line in lines[:SHOWN]:
        console.print(f"  {line}", markup=False)
    if len(lines) > SHOWN:
        console.print(f"  ... and {len(lines) - SHOWN} more")


def table_of(changes: Sequence[Change]) -> Table:
    """Changes as a table: the same task on several hosts is one row."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for change in changes:
        rows.setdefault((change.role, change.task, change.item), []).append(change.host)
    table = Table("role", "task", "what", "hosts", title="configuration and packages")
    for (role, name, item), hosts in rows.items():
        table.add_row(role, name, item, " ".join(sorted(set(hosts))))
    return table


def _phase(commit: str, path: str) -> str:
    """The value that the file gives to `phase`."""
    source = "\n".join(_git("show", f"{commit}:{path}") or [])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "phase" for target in targets):
                return str(node.value.value)
    return "no phase"


def _git(*arguments: str) -> list[str] | None:
    answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines() if answer.returncode == 0 else None
