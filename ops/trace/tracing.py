"""A trace from its beginning to its end: armed, shown, recorded, and proven to be disarmed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ops import remote
from ops.console import console
from ops.deployment.lock import now, operator
from ops.deployment.store import Store
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.trace import output
from ops.trace.display import TraceDisplay
from ops.trace.host_trace import places
from ops.trace.order import Order
from ops.trace.recording import About, HostLine, Recording
from ops.trace.session import Progress, TraceSession, proof
from ops.trace.trace_record import TraceRecord, TraceRecords

FILES_AT_ONCE = 200
DISARMING_SECONDS = 8
"""Longer than a trace can outlive the command that it is fed by."""


def hosts_of(environment: Environment, order: Order, names: str) -> list[Host]:
    """The hosts that are traced: all that run such processes, or those of a comma-separated list. Raises Failure."""
    chosen = [environment.host(name.strip()) for name in names.split(",") if name.strip()]
    hosts = [host for host in chosen or environment.hosts.values() if places(host, order.groups)]
    if wrong := sorted(host.name for host in chosen if host not in hosts):
        raise Failure(
            f"{', '.join(wrong)}: no process there could have {order.what}.",
            f"Choose among: {', '.join(name for group in order.groups for name in environment.members(group))}.",
            Exit.USAGE,
        )
    return hosts


def trace(environment: Environment, order: Order, hosts: Sequence[Host], *, reason: str, file: Path | None) -> None:
    """Trace until the end, and write the lines to a file if one is named. Raises Failure."""
    display = TraceDisplay()
    session = TraceSession(environment, order, hosts, by=operator(), reason=reason, tell=display.say)
    records = TraceRecords(Store(environment))
    record = TraceRecord(
        session.id, order.what, operator(), reason, now(), order.seconds, [host.name for host in hosts]
    )
    console.print(
        f"tracing {order.what} on {', '.join(record.hosts)} (trace {session.id}); "
        f"ends after {order.seconds} s, {order.lines:,} lines or Ctrl-C",
        markup=False,
    )
    records.save(record)
    session.start()
    begun = time.monotonic()
    kept: list[HostLine] = []
    told = False

    with display:

        def show(lines: list[HostLine]) -> None:
            display.show(lines)
            if file is not None:
                kept.extend(lines)

        def tick(progress: Progress) -> None:
            nonlocal told
            if not told and not progress.pending:
                told = True
                display.say(f"armed on {progress.hosts} of {len(hosts)} hosts")
            display.tick(progress)

        try:
            session.run(show, tick)
        except BaseException as error:
            record.ended = f"failed: {error}"
            raise
        finally:
            progress = session.progress
            record.seconds, record.lines = round(time.monotonic() - begun, 1), progress.lines
            record.dropped, record.ended = progress.dropped, session.why or record.ended
            records.save(record)
            records.prune()
    console.print(f"ended: {session.why}; {record.lines:,} lines, {record.dropped:,} dropped", markup=False)
    if file is not None:
        sources = _sources(environment, kept) if output.needs_sources(file) else {}
        output.write(file, Recording(_about(environment, record), sources, kept))
        console.print(f"written: {file}", markup=False)
    _prove(environment, order, hosts, session)
    if not record.lines:
        raise Failure(
            f"Nothing ran for {order.what} in these {record.seconds:.0f} s.",
            "Only what runs while it is traced is seen. Is the id right, and its host among those above?",
        )


def _about(environment: Environment, record: TraceRecord) -> About:
    return {
        "environment": environment.name,
        "what": record.what,
        "by": record.by,
        "reason": record.reason,
        "began": record.began,
        "seconds": record.seconds,
        "ended": record.ended,
        "lines": record.lines,
        "dropped": record.dropped,
        "hosts": record.hosts,
    }


def _prove(environment: Environment, order: Order, hosts: Sequence[Host], session: TraceSession) -> None:
    """Print what hosts say: they must have nothing of the trace any more. Raises Failure if one has."""
    deadline = time.monotonic() + DISARMING_SECONDS
    while (found := proof(environment, order, hosts, session.id)).armed and time.monotonic() < deadline:
        time.sleep(0.5)  # a host that was given up disarms itself
    for text in found.others:
        console.print(text, markup=False)
    console.print(f"disarmed: {', '.join(found.disarmed) or 'no host says so'}", markup=False)
    if found.armed:
        raise Failure(
            f"Still armed: {', '.join(found.armed)}.",
            "A trace ends by itself within 5 s after its command. If it does not, restart the service.",
        )
    for problem in found.problems:
        console.print(f"{problem} What was armed there ends by itself within 5 s.", markup=False)


def _sources(environment: Environment, lines: Iterable[HostLine]) -> dict[str, str]:
    """The texts of the files of the lines, each read on the first host that ran it; without those that are gone."""
    by_host: dict[str, list[str]] = {}
    for name, path in {line["file"]: (line["host"], line["file"]) for line in lines if "file" in line}.values():
        by_host.setdefault(name, []).append(path)
    found: dict[str, str] = {}
    for name, paths in by_host.items():
        for begin in range(0, len(paths), FILES_AT_ONCE):
            part = paths[begin : begin + FILES_AT_ONCE]
            try:
                found |= remote.ask_program(environment, environment.host(name), "source_files", *part)
            except remote.NoAnswer as silent:
                console.print(f"sources are missing: {silent.message}", markup=False)
    return found
