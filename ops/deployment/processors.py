"""Ships processors to the workers without a release of the application, and reverts them."""

from __future__ import annotations

import time

from ops.console import confirm, console
from ops.deployment import lock, releases
from ops.deployment.deployment import Deployment
from ops.deployment.record import FAILED, OPEN, SHIP, Record, Records
from ops.deployment.store import Store
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.release import Release

OWN = "those of its release"


def change(
    environment: Environment,
    version: str,
    made: Release | None,
    *,
    limit: str = "",
    reason: str = "",
    yes: bool = False,
) -> None:
    """Let workers use the shipment `made`, or the processors of their release (version "").

    Raises Failure; the workers then use what they used before.
    """
    began = time.monotonic()
    workers = _workers(environment, limit)
    found = releases.ask(environment, workers)
    store = Store(environment)
    unproven = _unproven(Records(store), workers)
    todo = [host for host in workers if found[host.name].processors != version or host in unproven]
    if not todo:
        console.print(f"Nothing to change: every worker uses {version or OWN}.")
        return
    for host in todo:
        note = ", not proven yet" if host in unproven else ""
        console.print(f"{host.name}: {found[host.name].processors or OWN}{note} -> {version or OWN}", markup=False)
    confirm(f"Change the processors of {_names(todo)} on '{environment.name}'?", yes=yes or environment.is_lab)
    why = reason or (f"ship processors {version}" if version else "back to the processors of the release")
    with lock.held(store, why) as held:
        record = Record.new(SHIP, version or "of the release", why)
        record.hosts = [host.name for host in todo]
        before = {name: host.processors for name, host in found.items()}
        try:
            Deployment(environment, todo, record, Records(store), held).ship(version, before, made)
        except Failure as failure:
            if not unproven:
                raise
            record.result = FAILED
            Records(store).save(record)
            raise Failure(
                failure.message,
                f"{_names(unproven)} had them already, from an interrupted run, and may still use them. Correct the "
                f"script and ship it again, or: ./inv processors.revert --env={environment.name}",
                failure.code,
            ) from failure
    console.rule(f"{_names(todo)} {_uses(todo)} {version or OWN} after {time.monotonic() - began:.0f} s")


def _unproven(kept: Records, workers: list[Host]) -> list[Host]:
    """The workers whose last shipment was interrupted: no file may have been processed with what they use."""
    shipped = [record for record in kept.list() if record.operation == SHIP]

    def last(host: Host) -> Record | None:
        return next((record for record in shipped if host.name in record.hosts), None)

    return [host for host in workers if (record := last(host)) is not None and record.result in OPEN]


def _workers(environment: Environment, limit: str) -> list[Host]:
    hosts = [host for host in releases.hosts_of(environment, limit) if "workers" in host.groups]
    if not hosts:
        known = ", ".join(host.name for host in environment.group("workers"))
        raise Failure("None of these hosts is a worker.", f"Workers: {known}.", Exit.USAGE)
    return hosts


def _names(hosts: list[Host]) -> str:
    return ", ".join(host.name for host in hosts)


def _uses(hosts: list[Host]) -> str:
    return "uses" if len(hosts) == 1 else "use"
