"""The steps of a deployment, their record, and the way back when one of them fails.

Every step looks at the hosts and not at the record, and finds nothing to do where it was done: so a deployment whose
process died is resumed by running it again. What the record keeps is what the hosts cannot tell any more: which release
each of them had before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial

from ops import access
from ops.ansible import run_playbook
from ops.cli import console
from ops.deployment import fleet
from ops.deployment import record as records
from ops.deployment.lock import Lock
from ops.deployment.record import Record, Records
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.progress import progress
from ops.release import Release
from ops.smoke import smoke

SETTLE_SECONDS = 5
"""In the first seconds of new load balancers the virtual address moves between them."""


@dataclass
class Machine:
    """A deployment on `hosts`, in their order. `lock` is None only when etcd is away and the operator goes on."""

    environment: Environment
    hosts: list[Host]
    record: Record
    records: Records
    lock: Lock | None
    interrupted: bool = False
    """Whether the deployment before did not end: hosts may differ already."""
    _switched: list[str] = field(default_factory=list)

    def deploy(self, release: Release, *, provision: bool) -> None:
        """Prepare the hosts (all of the environment) if wanted, install, extend the database, switch, prove.

        Raises Failure when everything that could be returned is.
        """
        archive = {"release_archive": str(release.path), "release_sha256": release.sha256}
        with self.records.whole(self.record):
            with self._untouched():
                if provision:
                    with self._step("hosts"):
                        run_playbook(self.environment, "site")
                with self._step("install"):
                    names = {host.name: None for host in (*self.hosts, *self._web_hosts.values())}
                    self._play("release-install", ",".join(names), release.version, **archive)
                with self._step("expand the database"):
                    self._migrate(release.version)
            self._switch_all(release.version)

    def go_to(self, version: str) -> None:
        """Switch to a release that all hosts have, and prove it. Raises Failure like `deploy`."""
        with self.records.whole(self.record):
            # Nothing, unless the release never ran because this failed; refused if what it needs was taken away.
            with self._untouched(), self._step("expand the database"):
                self._migrate(version)
            self._switch_all(version)

    def contract(self, version: str, kept_heads: Sequence[str]) -> None:
        """Take away from the databases what no kept release needs. Raises Failure; what was refused is as it was."""
        arguments = f"--phase contract --kept-heads {','.join(kept_heads)}"
        with self.records.whole(self.record), self._step("contract the database"):
            # Of two data centres the first may be done when it fails in the second.
            self.record.result = records.FAILED
            self._migrate(version, release_migrate_arguments=arguments)

    def ship(self, version: str, before: Mapping[str, str], shipment: Release | None) -> None:
        """Let the workers use shipped processors, or their release's own (version ""); `before` is what each has now.

        Raises Failure when those that had changed are back on what they had.
        """
        changed: list[str] = []
        with self.records.whole(self.record):
            try:
                for host in self.hosts:
                    with self._step(f"processors of {host.name}"):
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
        return fleet.web_hosts_for(self.environment, self.hosts)

    def _away(self, host: Host) -> list[str]:
        """The load balancers of a web host that do not answer: they learn from the host itself that it is drained, but
        cannot be asked. Raises Failure if none answers.
        """
        if "web" not in host.groups:
            return []
        balancers = [other for other in self.environment.group("loadbalancers") if other.datacentre == host.datacentre]
        away = fleet.away(self.environment, balancers)
        if balancers and len(away) == len(balancers):
            raise Failure(
                f"No load balancer answers that could tell when {host.name} is drained: {', '.join(away)}.",
                "See ./inv status, and mend one first.",
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
                with self._step(f"switch {host.name}"):
                    self._switch(host, version, release=version)
                    self._switched.append(host.name)
            with self._step("prove"):
                self._prove(version)
        except Failure as failure:
            self._return(failure)
            raise

    def _switch(self, host: Host, version: str, *, release: str) -> None:
        """Switch a host; a worker of that `release` must prove it, if it is not ""."""
        # Workers of the same release exist when all of them were switched before the first web host.
        whole = {member.name for member in self.environment.group("workers")} <= {member.name for member in self.hosts}
        self._play(
            "release-switch",
            host.name,
            version,
            release_probe_release=release if whole else "",
            release_probe_through=self._web_hosts[host.datacentre].name,
            web_loadbalancers_away=self._away(host),
        )

    def _prove(self, version: str) -> None:
        """An upload through the virtual IP to each worker that it leads to, as a user would send it."""
        reach = access.access(self.environment)
        here = self.environment.first_datacentre
        workers = [host.name for host in self.hosts if "workers" in host.groups and host.datacentre == here]
        with progress("uploading a file to each worker", len(workers)) as proven:
            for name in workers:
                self._patiently(partial(smoke, reach, worker=name, release=version))
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
                console.print(f"{name} keeps the release whose web service goes on giving it jobs.", markup=False)
                continue
            try:
                with self._step(f"return {name} to {before}"):
                    self._switch(host, before, release="")
            except Failure as worse:
                console.print(f"{name}: {worse.message}", markup=False)
                web_stays |= "web" in host.groups
        self._refuse_difference(failure)
        self.record.result = records.RETURNED

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """No host is switched in the block, so they are what they were if it fails: different, perhaps."""
        try:
            yield
        except Failure as failure:
            if self.interrupted:
                self._refuse_difference(failure)
            raise

    def _refuse_difference(self, failure: Failure) -> None:
        """Raises Failure if hosts have not what they had before the deployment, or the one that it goes on with."""
        if differ := self._not_returned():
            self.record.result = records.FAILED
            raise Failure(
                f"{failure.message} And these hosts are not back on what they had: {'; '.join(differ)}.",
                f"{failure.hint} Look at them (./inv status), then: ./inv rollback, or ./inv deploy --resume.".strip(),
            ) from failure

    def _not_returned(self) -> list[str]:
        """What the hosts themselves say, for the one at which it failed returned itself, or could not."""
        try:
            found = fleet.ask(self.environment, self.hosts)
        except Failure as failure:
            return [failure.message]
        return [
            f"{name} (has {releases.current or 'none'}, had {self.record.before.get(name) or 'none'})"
            for name, releases in found.items()
            # Before a first deployment there was nothing to go back to.
            if releases.switching or self.record.before.get(name, "") not in ("", releases.current)
        ]

    # --- Their frame --------------------------------------------------------------------------------------------------

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        if self.lock is not None:
            self.lock.check()
        console.rule(name)
        with self.records.step(self.record, name):
            yield
        console.print(f"{name}: {self.record.steps[-1].seconds:.0f} s")

    def _all_use(self, processors: Mapping[str, str]) -> bool:
        """Whether every host says that it uses what is named for it: one that died in the middle could not return."""
        try:
            found = fleet.ask(self.environment, self.hosts)
        except Failure as failure:
            console.print(failure.message, markup=False)
            return False
        return all(releases.processors == processors[name] for name, releases in found.items())

    def _return_processors(self, host: str, before: str) -> None:
        try:
            with self._step(f"return the processors of {host}"):
                self._processors(host, before, None)
        except Failure as worse:
            console.print(f"{host}: {worse.message}", markup=False)

    def _processors(self, host: str, version: str, shipment: Release | None) -> None:
        archive = {} if shipment is None else {"archive": str(shipment.path), "sha256": shipment.sha256}
        values = {f"release_processors_{name}": value for name, value in {"version": version, **archive}.items()}
        run_playbook(self.environment, "processors-ship", limit=host, extra_vars=values)

    def _play(self, playbook: str, limit: str, version: str, **values: object) -> None:
        run_playbook(self.environment, playbook, limit=limit, extra_vars={"release_version": version, **values})
