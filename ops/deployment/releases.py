"""What releases the hosts of an environment have: asked of all web hosts and workers at once, by SSH."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ops import remote
from ops.environment import Environment, Host
from ops.errors import Exit, Failure


@dataclass(frozen=True)
class Releases:
    """Of one host: the version that `current` names, and the installed ones, newest first.

    `switching` is the version that it had before a switch which did not come to its end. `heads` is version -> the
    newest revision of the database that the release ships. `processors` is what was shipped to the current release, ""
    if it runs its own.
    """

    host: str
    current: str
    switching: str
    installed: list[str]
    heads: dict[str, str]
    processors: str = ""


def hosts_of(environment: Environment, limit: str = "") -> list[Host]:
    """The hosts that run releases, workers first (a job of the new release must find a worker that knows it), each
    group in the inventory's order, so that the first of each is the canary. Raises Failure for an unknown name.
    """
    wanted = [environment.host(name.strip()) for name in limit.split(",") if name.strip()]
    workers = [host for host in environment.group("workers") if "web" not in host.groups]
    hosts = [*workers, *environment.group("web")]
    for host in wanted:
        if host not in hosts:
            raise Failure(
                f"{host.name} runs no release of the application.",
                f"Those that do: {', '.join(host.name for host in hosts)}.",
                Exit.USAGE,
            )
    return [host for host in hosts if not wanted or host in wanted]


def web_hosts_for(environment: Environment, hosts: list[Host]) -> dict[str, Host]:
    """Data centre -> the web host that its database is migrated from and its workers are proven through: of those that
    are among `hosts` the first, else the first there is.
    """
    chosen: dict[str, Host] = {}
    datacentres = {host.datacentre for host in hosts}
    for host in (*(host for host in hosts if "web" in host.groups), *environment.group("web")):
        if host.datacentre in datacentres:
            chosen.setdefault(host.datacentre, host)
    return chosen


def away(environment: Environment, hosts: list[Host]) -> list[str]:
    """The names of the hosts that do not answer."""

    def answers(host: Host) -> bool:
        try:
            remote.answer(environment, host, ["true"])
        except remote.NoAnswer as silent:
            if silent.code != Exit.UNAVAILABLE:
                raise
            return False
        return True

    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        return [host.name for host, there in zip(hosts, pool.map(answers, hosts), strict=True) if not there]


def ask(environment: Environment, hosts: list[Host]) -> dict[str, Releases]:
    """Host name -> its releases. Raises Failure naming the hosts that do not answer."""
    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        answers = list(pool.map(lambda host: _ask(environment, host), hosts))
    silent = [answer for answer in answers if isinstance(answer, str)]
    if silent:
        raise Failure(
            f"Not every host can be asked which releases it has: {'; '.join(silent)}.",
            "Mend or remove these hosts first (./inv status), or leave them out: --limit with the others' names (and "
            "--no-provision, if it is a deployment).",
            Exit.UNAVAILABLE,
        )
    return {answer.host: answer for answer in answers if isinstance(answer, Releases)}


def kept_heads(environment: Environment, hosts: list[Host]) -> tuple[str, list[str]]:
    """The release that all hosts run, and the database's revisions that a kept release of any of them needs.

    Raises Failure if they run different ones, or if a release does not tell.
    """
    found = ask(environment, hosts)
    versions = {host.current for host in found.values()}
    if len(versions) != 1 or not next(iter(versions)):
        raise Failure(
            f"The hosts run different releases ({', '.join(version or 'none' for version in sorted(versions))}).",
            "First: ./inv deploy --resume",
        )
    heads = sorted({head for host in found.values() for head in host.heads.values()})
    if "" in heads:
        raise Failure(
            "A host keeps a release that does not say which database it needs.",
            "Deploy newer ones until it is gone: hosts keep a fixed number (policy_releases_kept).",
        )
    return versions.pop(), heads


def _ask(environment: Environment, host: Host) -> Releases | str:
    try:
        return Releases(host=host.name, **remote.ask_program(environment, host, "installed_releases"))
    except remote.NoAnswer as silent:
        return f"{host.name} ({silent.reason[-200:]})"
