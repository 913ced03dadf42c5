"""The task `load`."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from ops import access, where
from ops.console import console, name_again
from ops.errors import Exit, Failure
from ops.lab.place import LABS
from ops.load import profile as profiles
from ops.load import report
from ops.load.measure import Measure
from ops.load.profile import GB, MB, Profile
from ops.paths import CACHE
from ops.tasks.declare import task

if TYPE_CHECKING:
    from ops.load.run import Load

LINE_EVERY_SECONDS = 10
DISK_FACTOR = 4
"""Three copies in the lab's storage, and one that a worker stages in."""


@task(
    help={
        "env": "environment to load; unless it is the lab, you are asked to type its name",
        "profile": f"what to send: {', '.join(profiles.PROFILES)}",
        "output": "directory for load.json and load.png (default: a new one in .cache/load)",
        "json": "print what load.json has, for programs",
    }
)
def load(
    _context: object,
    *,
    env: str = "lab",
    profile: str = "quick",
    output: str = "",
    json_: bool = False,
    confirm: str = "",
) -> None:
    """Upload as many users at once would, and measure it."""
    from ops.load.run import Load, unique

    chosen = profiles.named(profile)
    environment = where.environment(env)
    if environment.is_lab:
        _room(chosen)
    else:
        name_again(
            f"This sends {chosen.size / MB:.0f} MB from {chosen.clients} clients, and "
            f"{chosen.pages_per_second:g} requests per second, to '{env}', where users are.",
            env,
            given=confirm,
        )
    name = unique()
    directory = Path(output) if output else CACHE / "load" / name
    with Load(access.access(environment), chosen, name=name) as running:
        try:
            _watch(running)
            measure = running.wait()
        finally:
            text, picture = report.save(directory, f"{profile} on {env}", chosen, running.measure)
    if json_:
        sys.stdout.write(json.dumps(measure.summary(), indent=2) + "\n")
    else:
        shown = Console()
        shown.print(report.uploads_table(chosen, measure))
        shown.print(report.requests_table(measure))
    console.print(f"picture: {picture}\ndata:    {text}")
    _judge(chosen, measure)


def _judge(chosen: Profile, measure: Measure) -> None:
    for at, what in measure.failures[:10]:
        console.print(f"failed at {at:.0f} s: {what}", markup=False)
    if measure.failed or measure.done < chosen.clients:
        raise Failure(
            f"{measure.failed} failures; {measure.done} of {chosen.clients} uploads arrived whole.",
            "The picture shows when; ./inv status shows the hosts, and each failure above names its upload.",
        )


def _room(chosen: Profile) -> None:
    """Raises Failure if the lab's disk cannot hold the files."""
    free, need = shutil.disk_usage(LABS).free, chosen.size * DISK_FACTOR
    if free < need:
        raise Failure(
            f"The profile's files need {need / GB:.1f} GB in the lab, and {LABS} has {free / GB:.1f} GB free.",
            "Free some space (remove a lab: ./inv lab.destroy), or choose a smaller --profile.",
            Exit.UNAVAILABLE,
        )


def _watch(running: Load) -> None:
    """A bar on a terminal, a line now and then elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("uploads", total=running.profile.size)
        due = 0.0
        while running.running:
            measure = running.measure
            sent = measure.sent.total() - measure.sent_again
            said = f"{measure.done} of {running.profile.clients} uploads processed, {measure.failed} failures"
            bar.update(task, completed=sent, description=said)
            if not console.is_terminal and time.monotonic() >= due:
                console.print(f"{measure.now():5.0f} s  {sent / MB:8.1f} MB sent, {said}")
                due = time.monotonic() + LINE_EVERY_SECONDS
            time.sleep(0.2)
