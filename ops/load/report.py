"""The report of a load test: tables for the terminal, a picture over time, and JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table

from ops.load.measure import Measure, RequestKind
from ops.load.profile import MB, Profile

_NAMES = {RequestKind.PAGE: "pages", RequestKind.CREATE: "creations", RequestKind.OFFSET: "offsets asked for"}


def requests_table(measure: Measure) -> Table:
    """A row for each kind of requests, latencies in milliseconds."""
    table = Table("requests", title="requests that were answered")
    for name in ("number", "median ms", "95 % ms", "slowest ms"):
        table.add_column(name, justify="right")
    for kind, name in _NAMES.items():
        found = measure.latency(kind)
        milliseconds = (f"{value * 1000:.0f}" for value in (found.median, found.p95, found.slowest))
        table.add_row(name, str(found.requests), *milliseconds)
    return table


def uploads_table(profile: Profile, measure: Measure) -> Table:
    """What became of the uploads."""
    seconds = max(measure.sent, default=0) + 1
    table = Table("what", title="uploads", show_header=False)
    table.add_column("figure", justify="right")
    for what, figure in (
        ("uploads", str(profile.clients)),
        ("created", str(measure.created)),
        ("processed, with the SHA-256 of what was sent", str(measure.done)),
        ("sent, MB", f"{measure.sent.total() / MB:.1f}"),
        ("of these sent again, MB", f"{measure.sent_again / MB:.1f}"),
        ("MB/s on average while sending", f"{measure.sent.total() / MB / seconds:.1f}"),
        ("pauses and cuts made by the clients", f"{measure.stalls} and {measure.cuts}"),
        ("interruptions by the site", str(len(measure.interruptions))),
        ("longest time until one was resumed, s", f"{max(measure.resumed_after, default=0):.1f}"),
        ("failed", f"[bold red]{measure.failed}" if measure.failed else "0"),
    ):
        table.add_row(what, figure)
    return table


def save(directory: Path, title: str, profile: Profile, measure: Measure) -> tuple[Path, Path]:
    """Write load.json and load.png into a directory; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    text, picture = directory / "load.json", directory / "load.png"
    text.write_text(json.dumps({"title": title, "about": profile.about, **measure.summary()}, indent=2) + "\n")
    _draw(picture, title, measure)
    return text, picture


def _draw(path: Path, title: str, measure: Measure) -> None:
    """Throughput, latency, and what went wrong, one above the other over the same seconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    FigureCanvasAgg(figure)
    throughput, latency, trouble = figure.subplots(3, sharex=True)
    end = max(int(measure.now()), 1)
    seconds = range(end + 1)
    throughput.set_title(title, loc="left")
    throughput.fill_between(seconds, [measure.sent[second] / MB for second in seconds], step="post", alpha=0.6)
    throughput.set_ylabel("sent, MB/s")
    for fraction, name in ((0.5, "median"), (0.95, "95 %"), (1.0, "slowest")):
        found = measure.latency_over_time(RequestKind.PAGE, fraction)
        latency.plot(list(found), [value * 1000 for value in found.values()], label=name, linewidth=1)
    latency.set_ylabel("pages, ms")
    if measure.latencies[RequestKind.PAGE]:
        latency.legend(loc="upper right")
    colours = {"interruptions": "tab:orange", "failures": "tab:red"}
    times = {"interruptions": measure.interruptions, "failures": [at for at, _ in measure.failures]}
    trouble.hist(
        list(times.values()), bins=list(seconds), label=list(times), color=list(colours.values()), stacked=True
    )
    trouble.set_ylabel("per second")
    trouble.set_xlabel("seconds since the beginning")
    trouble.legend(loc="upper right")
    trouble.set_xlim(0, end)
    trouble.set_ylim(top=max(1.0, trouble.get_ylim()[1]))
    trouble.yaxis.get_major_locator().set_params(integer=True)
    for axes in (throughput, latency, trouble):
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=120)
