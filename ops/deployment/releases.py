"""Which releases the hosts of an environment have: asks all web hosts and workers at once, by SSH."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ops import remote
from ops.environment import Environment, Host
from ops.errors import Exit, Failure


@dataclass(frozen=True)
class Releases:
    """The releases of one host: `current` is the version in use, `installed` are all, newest first.

    `switching` is the version before an interrupted switch, else "". `heads`: version -> the newest database revision
    in that release. `processors` is the version of the shipment in use, "" if the release uses its own.
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
                f"{host.name} runs no release of the application: it is neither a web host nor a worker.",
                f"Hosts with releases: {', '.join(host.name for host in hosts)}.",
                Exit.USAGE,
            )
    return [host for host in hosts if not wanted or host in wanted]


def web_hosts_for(environment: Environment, hosts: list[Host]) -> dict[str, Host]:
    """Data centre -> the web host that migrates the database there and through which the workers are tested.

    It is the first web host among `hosts`, or else the first one in the data centre.
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
    """Host name -> its releases. Raises Failure that names the hosts which do not answer."""
    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        answers = list(pool.map(lambda host: _ask(environment, host), hosts))
    silent = [answer for answer in answers if isinstance(answer, str)]
    if silent:
        raise Failure(
            f"These hosts did not tell which releases they have: {'; '.join(silent)}.",
            "Repair or remove them first (./inv status), or leave them out: --limit=HOST,... with the other hosts (for "
            "a deployment also --no-provision).",
            Exit.UNAVAILABLE,
        )
    return {answer.host: answer for answer in answers if isinstance(answer, Releases)}


def kept_heads(environment: Environment, hosts: list[Host]) -> tuple[str, list[str]]:
    """The release that all hosts run, and the database revisions that any release kept on them needs.

    Raises Failure if the hosts run different releases, or if a release does not say which revision it needs.
    """
    found = ask(environment, hosts)
    versions = {host.current for host in found.values()}
    if len(versions) != 1 or not next(iter(versions)):
        raise Failure(
            f"The hosts run different releases ({', '.join(version or 'none' for version in sorted(versions))}).",
            "Bring them to one release first: ./inv deploy --resume",
        )
    heads = sorted({head for host in found.values() for head in host.heads.values()})
    if "" in heads:
        raise Failure(
            "A host keeps a release that does not say which database revision it needs.",
            "Deploy newer releases until it is removed: hosts keep policy_releases_kept of them.",
        )
    return versions.pop(), heads


def _ask(environment: Environment, host: Host) -> Releases | str:
    try:
        return Releases(host=host.name, **remote.ask_program(environment, host, "installed_releases"))
    except remote.NoAnswer as silent:
        return f"{host.name} ({silent.reason[-200:]})"
