"""The tasks `trace-app`, `trace-script`, `trace-token`, `traces` and `stacks`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

from ops import access, secrets, where
from ops.console import console
from ops.deployment.lock import operator
from ops.deployment.store import Store
from ops.errors import Exit, Failure
from ops.paths import APP
from ops.tasks.declare import task
from ops.tasks.words import words_after_dashes
from ops.trace import output as files
from ops.trace import stacks as stacks_of
from ops.trace.order import Beside, order
from ops.trace.stacks_text import Look, text
from ops.trace.trace_record import TraceRecords
from ops.trace.tracing import hosts_of, trace

BESIDE = {
    "values": "show values of local variables when they change: names, comma-separated, * is a pattern",
    "allow-repr": "with --values: classes whose repr() may be called (module.Class)",
    "calls": "show calls with depth and arguments",
    "returns": "show returned values",
    "exceptions": "show exceptions, in each function that they pass",
    "timing": "show the time since the line before",
}


LINETRACE = (sys.executable, "-u", "-m", "linetrace")


def _with_tracer() -> dict[str, str]:
    """The environment of this process, in which Python finds the tracer of this checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(APP), *filter(None, [os.environ.get("PYTHONPATH")])])}


def _flags(**given: bool) -> tuple[str, ...]:
    return tuple(name for name, wanted in given.items() if wanted)


@task(
    name="trace-app",
    help={
        "host": "only these hosts, comma-separated",
        "request": "the request with this id (header X-Request-Id of each answer)",
        "job": "the job with this number",
        "upload": "all that is done for this upload, on web hosts and workers",
        "user": "all that is done for this user",
        "next-upload": "the next upload that is created, up to the script that processes it",
        "path": "the next request whose path matches; * stands for anything",
        "function": "the functions module.name that match, whoever calls them",
        "seconds": "end after so many seconds (60; 600 for uploads and jobs); alone: trace all that runs",
        "lines": "end after so many lines (100,000)",
        "output": "write the lines to a file too: .txt, .html (a page to look at) or .json",
        "reason": "why, for the record",
        **BESIDE,
    },
)
def trace_app(
    _context: object,
    *,
    env: str = "lab",
    host: str = "",
    request: str = "",
    job: str = "",
    upload: str = "",
    user: str = "",
    next_upload: bool = False,
    path: str = "",
    function: str = "",
    seconds: int = 0,
    lines: int = 0,
    values: str = "",
    allow_repr: str = "",
    calls: bool = False,
    returns: bool = False,
    exceptions: bool = False,
    timing: bool = False,
    output: str = "",
    reason: str = "",
) -> None:
    """Show which lines the running application executes."""
    wanted = order(
        request=request,
        job=job,
        upload=upload,
        user=user,
        next_upload=next_upload,
        path=path,
        function=function,
        seconds=seconds,
        lines=lines,
        beside=Beside(values, allow_repr, _flags(calls=calls, returns=returns, exceptions=exceptions, timing=timing)),
    )
    file = files.checked(output)
    environment = where.environment(env)
    trace(environment, wanted, hosts_of(environment, wanted, host), reason=reason, file=file)


@task()
def traces(_context: object, *, env: str = "lab", last: int = 10, json_: bool = False) -> None:
    """Show the last traces, the newest first."""
    found = TraceRecords(Store(where.environment(env))).list()
    if json_:
        sys.stdout.write(json.dumps([asdict(record) for record in found], indent=2) + "\n")
        return
    for record in found[:last]:
        amount = f"{record.lines:,} lines, {record.dropped:,} dropped, {record.seconds:.0f} s"
        sys.stdout.write(f"{record.began}  {record.id}  {record.what}  {record.by}  {amount}\n")
        sys.stdout.write(f"    on {', '.join(record.hosts)}; {record.end}\n")
        if record.reason:
            sys.stdout.write(f"    {record.reason}\n")
    if not found:
        console.print(f"Nothing was traced in '{env}' yet.", markup=False)


@task(name="trace-token", help={"seconds": "how long it is valid, at most a day"})
def trace_token(_context: object, *, env: str = "lab", seconds: int = 600) -> None:
    """Make a token with which a request is traced."""
    environment = where.environment(env)
    answer = subprocess.run(
        [*LINETRACE, "token", environment.variable("site_name"), f"--seconds={seconds}", f"--by={operator()}"],
        input=secrets.read(environment)["vault_web_trace_key"],
        env=_with_tracer(),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise Failure(answer.stderr.strip().removeprefix("linetrace: "), code=Exit.USAGE)
    found = access.access(environment)
    sys.stdout.write(f"x-linetrace: {answer.stdout}")
    console.print(
        f"For {seconds} s, a request with this header is traced: curl --cacert {found.ca_file} -H 'x-linetrace: ...' "
        f"{found.url}/\nIts lines are in the journal of the web host that serves it: journalctl -t linetrace",
        markup=False,
    )


@task(
    name="trace-script",
    positional=["script"],
    help={
        "script": "the Python script; its arguments follow after --",
        "to": "where the lines go: stdout, stderr, file:PATH, syslog",
        **BESIDE,
    },
)
def trace_script(
    _context: object,
    script: str,
    *,
    to: str = "stdout",
    values: str = "",
    allow_repr: str = "",
    calls: bool = False,
    returns: bool = False,
    exceptions: bool = False,
    timing: bool = False,
) -> None:
    """Run a Python script, and show which lines it executes."""
    beside = Beside(values, allow_repr, _flags(calls=calls, returns=returns, exceptions=exceptions, timing=timing))
    command = [*LINETRACE, f"--to={to}", *beside.words, script, *words_after_dashes(sys.argv)]
    os.execve(sys.executable, command, _with_tracer())  # noqa: S606


@task(
    help={
        "host": "only these hosts, comma-separated",
        "unit": "only these processes: web, worker or processor",
        "all": "show frames of libraries and idle threads too",
    },
)
def stacks(
    _context: object, *, env: str = "lab", host: str = "", unit: str = "", all_: bool = False, json_: bool = False
) -> None:
    """Show where our processes are: all threads and tasks."""
    environment = where.environment(env)
    answers, silent = stacks_of.ask(environment, stacks_of.hosts_of(environment, host, unit), unit)
    if json_:
        sys.stdout.write(json.dumps(answers, indent=2) + "\n")
    else:
        terminal = sys.stdout.isatty()
        look = Look(everything=all_, coloured=terminal, columns=console.width if terminal else 0)
        sys.stdout.writelines(f"{line}\n" for line in text(answers, look))
    if silent:
        raise Failure(" ".join(failure.message for failure in silent), silent[0].hint, silent[0].code)
