"""Runs the steps of a deployment (ops/deployment/steps.py), keeps their record, and goes back when one of them fails.

Every step looks at the hosts, not at the record, and does nothing where it was done before. So a deployment whose
process died is resumed by running it again. The record keeps the one thing that hosts cannot tell any more: which
release each of them had before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial

from ops import access
from ops.ansible import run_playbook
from ops.console import console
from ops.deployment import record as records
from ops.deployment import releases, steps
from ops.deployment.lock import Lock
from ops.deployment.proof import prove
from ops.deployment.record import Record, Records
from ops.deployment.steps import Step
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.progress import progress
from ops.release import Release

SETTLE_SECONDS = 5
"""In the first seconds of new load balancers the virtual address moves between them."""


@dataclass
class Deployment:
    """A deployment on `hosts`, in their order. `lock` is None only with --without-lock: etcd does not answer."""

    environment: Environment
    hosts: list[Host]
    record: Record
    records: Records
    lock: Lock | None
    interrupted: bool = False
    """Whether the deployment before this one did not end: hosts may differ already."""
    _switched: list[str] = field(default_factory=list)

    @classmethod
    def begun(
        cls,
        environment: Environment,
        hosts: list[Host],
        record: Record,
        kept: Records,
        lock: Lock | None,
        *,
        resumed: Record | None = None,
    ) -> Deployment:
        """A deployment whose record is saved and says what each host had before; it continues `resumed`, if given."""
        found = releases.ask(environment, hosts)
        record.hosts = [host.name for host in hosts]
        record.before = {name: host.switching or host.current for name, host in found.items()}
        # If an earlier deployment did not end, going back means to the releases before that one.
        unfinished = resumed or kept.unfinished()
        if unfinished is not None:
            record.before |= unfinished.before
        # The new record first: if this process dies now, one of the two records can still be resumed.
        kept.save(record)
        if resumed is not None:
            resumed.result = records.INTERRUPTED + ", resumed"
            kept.save(resumed)
        kept.prune()
        return cls(environment, hosts, record, kept, lock, interrupted=unfinished is not None)

    def deploy(self, release: Release, *, provision: bool) -> None:
        """Prepare all hosts of the environment if `provision`, install, expand the database, switch, prove.

        Raises Failure after a failed step, once every host that can be returned to its earlier release is.
        """
        archive = {"release_archive": str(release.path), "release_sha256": release.sha256}
        with self.records.whole(self.record):
            with self._untouched():
                if provision:
                    with self._step(steps.PREPARE):
                        run_playbook(self.environment, "site")
                with self._step(steps.INSTALL):
                    names = {host.name: None for host in (*self.hosts, *self._web_hosts.values())}
                    self._play("release-install", ",".join(names), release.version, **archive)
                with self._step(steps.EXPAND):
                    self._migrate(release.version)
            self._switch_all(release.version)

    def go_to(self, version: str) -> None:
        """Switch to a release that all hosts have, and prove it. Raises Failure like `deploy`."""
        with self.records.whole(self.record):
            # Usually changes nothing: the database was expanded before the release first ran. It may be that this step
            # failed then; and if a contraction has removed what the release needs, it refuses.
            with self._untouched(), self._step(steps.EXPAND):
                self._migrate(version)
            self._switch_all(version)

    def contract(self, version: str, kept_heads: Sequence[str]) -> None:
        """Remove from the databases what no kept release needs. Raises Failure; a refused revision changes nothing."""
        arguments = f"--phase contract --kept-heads {','.join(kept_heads)}"
        with self.records.whole(self.record), self._step(steps.CONTRACT):
            # Assume a failure: with two data centres it may fail in the second when the first is done.
            self.record.result = records.FAILED
            self._migrate(version, release_migrate_arguments=arguments)

    def ship(self, version: str, before: Mapping[str, str], shipment: Release | None) -> None:
        """Let the workers use shipped processors, or their release's own (version ""); `before` is what each has now.

        Raises Failure after the workers that had changed were returned to what they had.
        """
        changed: list[str] = []
        with self.records.whole(self.record):
            try:
                for host in self.hosts:
                    with self._step(steps.SHIP, host.name):
                        self._processors(host.name, version, shipment)
                    changed.append(host.name)
            except Failure:
                for name in reversed(changed):
                    self._return_processors(name, before[name])
                if not self._all_use(before):
                    self.record.result = records.FAILED
                raise

    # --- Steps --------------------------------------------------------------------------------------------------------

    @cached_property
    def _web_hosts(self) -> dict[str, Host]:
        return releases.web_hosts_for(self.environment, self.hosts)

    def _away(self, host: Host) -> list[str]:
        """The load balancers of a web host that do not answer. They notice the drain by their own health checks, but
        nobody can ask them whether they have. Raises Failure if no load balancer answers.
        """
        if "web" not in host.groups:
            return []
        balancers = [other for other in self.environment.group("loadbalancers") if other.datacentre == host.datacentre]
        away = releases.away(self.environment, balancers)
        if balancers and len(away) == len(balancers):
            raise Failure(
                f"No load balancer answers ({', '.join(away)}), so none can tell when {host.name} is drained.",
                "See ./inv status, and repair one of them first.",
                Exit.UNAVAILABLE,
            )
        for name in away:
            console.print(f"{name} does not answer: {host.name} is drained without asking it.", markup=False)
        return away

    def _migrate(self, version: str, **values: str) -> None:
        names = ",".join(host.name for host in self._web_hosts.values())
        self._play("release-migrate", names, version, **values)

    def _switch_all(self, version: str) -> None:
        try:
            for host in self.hosts:
                with self._step(steps.SWITCH, host.name):
                    self._switch(host, version, release=version)
                    self._switched.append(host.name)
            with self._step(steps.PROVE):
                self._prove(version)
        except Failure as failure:
            self._return(failure)
            raise

    def _switch(self, host: Host, version: str, *, release: str) -> None:
        """Switch a host and run the smoke test; with `release`, a worker of that release must process its file."""
        # That can be asked for only if all workers are switched too, which happens before the first web host.
        whole = {member.name for member in self.environment.group("workers")} <= {member.name for member in self.hosts}
        self._play(
            "release-switch",
            host.name,
            version,
            release_smoke_test_release=release if whole else "",
            release_smoke_test_through=self._web_hosts[host.datacentre].name,
            web_loadbalancers_away=self._away(host),
        )

    def _prove(self, version: str) -> None:
        """Upload through the virtual IP, as a user would, once for each worker of the data centre behind it."""
        reach = access.access(self.environment)
        here = self.environment.first_datacentre
        workers = [host.name for host in self.hosts if "workers" in host.groups and host.datacentre == here]
        with progress("uploading a file to each worker", len(workers)) as proven:
            for name in workers:
                self._patiently(partial(prove, reach, worker=name, release=version))
                proven()

    def _patiently(self, proof: Callable[[], object]) -> None:
        try:
            proof()
        except Failure as failure:
            if failure.code != Exit.UNAVAILABLE:
                raise
            console.print(failure.message, markup=False)
            time.sleep(SETTLE_SECONDS)
            proof()

    def _return(self, failure: Failure) -> None:
        """Bring the hosts that were switched back to what they had, the last one first."""
        console.print(f"failed: {failure.message}", markup=False, soft_wrap=not console.is_terminal)
        web_stays = False
        for name in reversed(self._switched):
            before, host = self.record.before.get(name, ""), self.environment.host(name)
            if before in ("", self.record.release):
                continue
            if web_stays and "web" not in host.groups:
                stays = f"{name} keeps its release: a web host could not leave it, and gives the workers its jobs."
                console.print(stays, markup=False)
                continue
            try:
                with self._timed(f"return {name} to {before}"):
                    self._switch(host, before, release="")
            except Failure as worse:
                console.print(f"{name}: {worse.message}", markup=False)
                web_stays |= "web" in host.groups
        self._refuse_difference(failure)
        self.record.result = records.RETURNED

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """No host is switched in the block. On failure all keep their releases, which may already have differed."""
        try:
            yield
        except Failure as failure:
            if self.interrupted:
                self._refuse_difference(failure)
            raise

    def _refuse_difference(self, failure: Failure) -> None:
        """Raises Failure if a host has another release than before the deployment (or before the one it resumes)."""
        if differ := self._not_returned():
            self.record.result = records.FAILED
            raise Failure(
                f"{failure.message} These hosts are not back on what they had: {'; '.join(differ)}.",
                f"{failure.hint} Look at them (./inv status), then: ./inv rollback, or ./inv deploy --resume.".strip(),
            ) from failure

    def _not_returned(self) -> list[str]:
        """The hosts that are not back on their earlier release. They are asked themselves: the record does not know
        whether the host at which the deployment failed could return.
        """
        try:
            found = releases.ask(self.environment, self.hosts)
        except Failure as failure:
            return [failure.message]
        return [
            f"{name} (has {host.current or 'none'}, had {self.record.before.get(name) or 'none'})"
            for name, host in found.items()
            # Before a first deployment there was nothing to go back to.
            if host.switching or self.record.before.get(name, "") not in ("", host.current)
        ]

    # --- Their frame --------------------------------------------------------------------------------------------------

    @contextmanager
    def _step(self, step: Step, host: str = "") -> Iterator[None]:
        with self._timed(step.of(host) if step.each_host else step.name):
            yield

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        if self.lock is not None:
            self.lock.check()
        console.rule(name)
        with self.records.step(self.record, name):
            yield
        console.print(f"{name}: {self.record.steps[-1].seconds:.0f} s")

    def _all_use(self, processors: Mapping[str, str]) -> bool:
        """Whether every host says that it uses the processors named for it: one that died could not return to them."""
        try:
            found = releases.ask(self.environment, self.hosts)
        except Failure as failure:
            console.print(failure.message, markup=False)
            return False
        return all(host.processors == processors[name] for name, host in found.items())

    def _return_processors(self, host: str, before: str) -> None:
        try:
            with self._timed(f"return the processors of {host}"):
                self._processors(host, before, None)
        except Failure as worse:
            console.print(f"{host}: {worse.message}", markup=False)

    def _processors(self, host: str, version: str, shipment: Release | None) -> None:
        archive = {} if shipment is None else {"archive": str(shipment.path), "sha256": shipment.sha256}
        values = {f"release_processors_{name}": value for name, value in {"version": version, **archive}.items()}
        run_playbook(self.environment, "processors-ship", limit=host, extra_vars=values)

    def _play(self, playbook: str, limit: str, version: str, **values: object) -> None:
        run_playbook(self.environment, playbook, limit=limit, extra_vars={"release_version": version, **values})
