"""What an earlier deployment left to do: to resume it, or to go back to what there was before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ops.deployment import lock
from ops.deployment import record as records
from ops.deployment.record import ROLLBACK, Record, Records
from ops.deployment.releases import Releases
from ops.deployment.store import NotThereYet, Store
from ops.errors import Exit, Failure


def to_resume(kept: Records, store: Store, *, resume: bool, held: lock.Lock | None = None) -> Record | None:
    """The deployment to go on with; None if there is nothing to resume.

    Raises Failure if `resume` is asked and there is none, or if one waits to be resumed and this is another.
    """
    try:
        found = kept.unfinished()
        # One that runs under a lock of somebody else was not interrupted: the lock will say whose it is.
        running = (
            found is not None and found.result == records.RUNNING and held is None and lock.current(store) is not None
        )
    except NotThereYet:
        found, running = None, False
    if resume:
        if found is None:
            raise Failure("There is no interrupted deployment to resume.", "See: ./inv deploys", Exit.USAGE)
        if found.operation == ROLLBACK:
            raise Failure("What was interrupted is a rollback.", f"Go on with it: ./inv rollback --to={found.release}")
        return found
    if found is None or running:
        return None
    raise Failure(
        f"The {found.operation} to {found.release} by {found.by} ({found.began}) stopped at '{found.open_step}': "
        "hosts may differ.",
        "Go on with it: ./inv deploy --resume. Or go back to what there was before: ./inv rollback.",
        Exit.TEMPORARY,
    )


def release_before(kept: Records, found: Mapping[str, Releases]) -> str:
    """The release that most hosts had before the last deployment that changed them. Raises Failure if no record tells.

    If that is a rollback that was interrupted, the release that it was on its way to.
    """
    unfinished = kept.unfinished()
    if unfinished is not None and unfinished.operation == ROLLBACK:
        return unfinished.release
    for record in kept.of_releases():
        before = Counter(version for version in record.before.values() if version and version != record.release)
        if before and record.result != records.RETURNED:
            return before.most_common(1)[0][0]
    everywhere = set.intersection(*(set(releases.installed) for releases in found.values()))
    raise Failure(
        "No record tells what there was before.",
        f"Name the release with --to; installed on all hosts: {', '.join(sorted(everywhere)) or 'none'}.",
        Exit.USAGE,
    )


def where_it_stands(record: Record, holder: lock.Holder | None) -> str:
    """What to say of a deployment that has no end yet; `holder` is who holds the lock now."""
    if holder is not None:
        return f"in '{record.open_step}'; the lock is held by {holder}"
    died = f"its process has died in '{record.open_step}'"
    return died if record.operation in records.CHANGES_NO_RELEASE else f"{died}: {_way_on(record)}"


def changed_meanwhile() -> Failure:
    """What to raise when the environment is not what it was when this operation looked at it."""
    return Failure(
        "Somebody else has changed the environment since this began to look at it.",
        "See what was done (./inv deploys), and run the same command again if that is still what you want.",
        Exit.TEMPORARY,
    )


def _way_on(record: Record) -> str:
    if record.operation == ROLLBACK:
        return f"./inv rollback --to={record.release}"
    return "./inv deploy --resume, or ./inv rollback"
