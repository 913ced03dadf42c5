"""What is to be traced and how, as the options of `trace-app` say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ops.errors import Exit, Failure

WEB, WORKERS = "web", "workers"
FOLDERS = {WEB: "/run/longhaul-web", WORKERS: "/run/longhaul-worker"}
"""Group of hosts -> where its processes listen: RuntimeDirectory of roles/web and roles/worker."""
SECONDS = 60
UPLOAD_SECONDS = 600
LINES = 100_000
MOST_SECONDS, MOST_LINES = 86_400, 10_000_000
CREATION = ("--next", "--method", "POST", "--path", "/files*", "--follow", "upload")


@dataclass(frozen=True)
class Order:
    """One trace. `what` is for people. `words` are options of `python -m linetrace attach`.

    `of_one`: one process alone can have it, and the others are let go when it was found. `next_upload`: the others
    follow the upload that one has found.
    """

    what: str
    words: tuple[str, ...]
    groups: tuple[str, ...] = (WEB, WORKERS)
    seconds: int = SECONDS
    lines: int = LINES
    of_one: bool = False
    next_upload: bool = False
    function: str = ""


@dataclass(frozen=True)
class Beside:
    """What is shown beside lines; see docs/tracing.md."""

    values: str = ""
    allow_repr: str = ""
    flags: Sequence[str] = field(default=())
    """Some of calls, returns, exceptions, timing."""

    @property
    def words(self) -> list[str]:
        """As options of attach."""
        given = [("--values", self.values), ("--allow-repr", self.allow_repr)]
        return [f"{name}={value}" for name, value in given if value] + [f"--{flag}" for flag in self.flags]


def order(
    *,
    request: str = "",
    job: str = "",
    upload: str = "",
    user: str = "",
    next_upload: bool = False,
    path: str = "",
    function: str = "",
    seconds: int = 0,
    lines: int = 0,
    beside: Beside | None = None,
) -> Order:
    """The order for what exactly one of the parameters up to `function` names; if none does, for all that runs.

    `seconds` and `lines` are limits; 0: as usual. Raises Failure.
    """
    found = [
        Order(f"the request {request}", (f"--request={request}",), (WEB,), of_one=True) if request else None,
        Order(f"the job {job}", (f"--job={job}",), (WORKERS,), UPLOAD_SECONDS) if job else None,
        Order(f"the upload {upload}", (f"--upload={upload}",), seconds=UPLOAD_SECONDS) if upload else None,
        Order(f"the user {user}", (f"--user={user}",)) if user else None,
        Order("the next upload", CREATION, seconds=UPLOAD_SECONDS, next_upload=True) if next_upload else None,
        Order(f"the next request to {path}", ("--next", f"--path={path}"), (WEB,), of_one=True) if path else None,
        Order(f"the function {function}", (f"--function={function}",), function=function) if function else None,
    ]
    chosen = [each for each in found if each is not None]
    if len(chosen) > 1:
        raise Failure(
            f"A trace is of one thing, not of {' and '.join(each.what for each in chosen)}.",
            "Choose one of --request, --job, --upload, --user, --next-upload, --path and --function. Traces can run "
            "beside each other: start another one in another terminal.",
            Exit.USAGE,
        )
    if not chosen and not seconds:
        raise Failure(
            "Say what to trace.",
            "One of --request, --job, --upload, --user, --next-upload, --path and --function; or only --seconds=N for "
            "all that the application does in N seconds.",
            Exit.USAGE,
        )
    if not 0 <= seconds <= MOST_SECONDS or not 0 <= lines <= MOST_LINES:
        raise Failure(
            f"--seconds is 1 to {MOST_SECONDS:,}, and --lines is 1 to {MOST_LINES:,}.",
            "Several short traces tell more than a long one, and cost less.",
            Exit.USAGE,
        )
    base = chosen[0] if chosen else Order("all that runs", ())
    seconds, lines = seconds or base.seconds, lines or base.lines
    words = (*base.words, f"--seconds={seconds}", f"--lines={lines}", *(beside or Beside()).words)
    return replace(base, words=words, seconds=seconds, lines=lines)
