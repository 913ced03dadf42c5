"""Interrupted deployments: finds the one to resume, and the release to go back to."""

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
    """The interrupted deployment to continue; None if there is none.

    Raises Failure if `resume` is given and no deployment was interrupted, or if it is not given and one was.
    """
    try:
        found = kept.unfinished()
        # A deployment that runs now under somebody else's lock was not interrupted; taking the lock names its owner.
        running = (
            found is not None and found.result == records.RUNNING and held is None and lock.current(store) is not None
        )
    except NotThereYet:
        found, running = None, False
    if resume:
        if found is None:
            raise Failure("There is no interrupted deployment to resume.", "See: ./inv deploys", Exit.USAGE)
        if found.operation == ROLLBACK:
            raise Failure(
                "The interrupted operation is a rollback, not a deployment.",
                f"Continue it: ./inv rollback --to={found.release}",
            )
        return found
    if found is None or running:
        return None
    raise Failure(
        f"The {found.operation} to {found.release} by {found.by} ({found.began}) stopped at '{found.open_step}': "
        "hosts may differ.",
        "Continue it: ./inv deploy --resume. Or go back to the release before: ./inv rollback.",
        Exit.TEMPORARY,
    )


def release_before(kept: Records, found: Mapping[str, Releases]) -> str:
    """The release that most hosts had before the last deployment that changed them. Raises Failure if no record tells.

    If the last one is an interrupted rollback, then the release that it was going to.
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
        "No record tells which release the hosts had before.",
        f"Name the release with --to; installed on all hosts: {', '.join(sorted(everywhere)) or 'none'}.",
        Exit.USAGE,
    )


def where_it_stands(record: Record, holder: lock.Holder | None) -> str:
    """Where a deployment without an end is, for people; `holder` holds the lock now."""
    if holder is not None:
        return f"in '{record.open_step}'; the lock is held by {holder}"
    died = f"its process has died in '{record.open_step}'"
    return died if record.operation in records.CHANGES_NO_RELEASE else f"{died}: {_way_on(record)}"


def changed_meanwhile() -> Failure:
    """The Failure to raise if somebody else has changed the environment since this operation looked at it."""
    return Failure(
        "Somebody else has changed the environment since this command first looked at it.",
        "See what was done (./inv deploys). Then run the same command again if you still want it.",
        Exit.TEMPORARY,
    )


def _way_on(record: Record) -> str:
    if record.operation == ROLLBACK:
        return f"./inv rollback --to={record.release}"
    return "./inv deploy --resume, or ./inv rollback"
