"""The tasks `database.*`."""

from __future__ import annotations

from ops import where
from ops.console import console, name_again
from ops.deployment import lock, releases
from ops.deployment.deployment import Deployment
from ops.deployment.notify import notify
from ops.deployment.record import CONTRACT, Record, Records
from ops.deployment.releases import kept_heads
from ops.deployment.store import Store
from ops.tasks.declare import task


@task()
def contract(_context: object, env: str = "lab", confirm: str = "", reason: str = "") -> None:
    """Remove from the database what no kept release needs."""
    environment = where.environment(env)
    store = Store(environment)
    hosts = releases.hosts_of(environment)
    kept_heads(environment, hosts)  # if it refuses, then before the question
    name_again(f"Only a backup can bring back what is removed. Contract the database of '{env}'?", env, given=confirm)
    with lock.held(store, reason or "contract the database") as held:
        # Asked again: the hosts may have changed while the question waited for its answer.
        version, heads = kept_heads(environment, hosts)
        record = Record.new(CONTRACT, version, reason or "contract the database")
        deployment = Deployment.begun(environment, hosts, record, Records(store), held)
        try:
            deployment.contract(version, heads)
        finally:
            notify(environment, record)
    console.print("The database now holds only what a kept release needs.")
