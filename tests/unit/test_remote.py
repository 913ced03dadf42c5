"""Hosts that are asked by SSH: each gives an answer, or it is known which one did not and why."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
from invoke.context import Context

from ops import remote, status
from ops.deployment import releases
from ops.environment import Environment, Host
from ops.errors import Exit, Failure

PORTS = {"site_patroni_port": 8008, "site_storage_port": 8444}


class Site:
    """Hosts whose commands run here: `away` is what SSH meets on the way, `broken` a program that fails."""

    name = "prod"

    def __init__(self, away: Exception | None = None, *, broken: bool = False) -> None:
        self.away = away
        self.broken = broken
        self.hosts = {name: Host(name, frozenset({"web"}), PORTS) for name in ("web1", "web2")}

    def connection(self, host: Host) -> Any:
        if host.name == "web2" and self.away:
            raise self.away
        return nullcontext(SimpleNamespace(run=lambda line, **options: self.run(host, line, **options)))

    def group(self, _name: str) -> list[Host]:
        return []

    def run(self, host: Host, line: str, **options: Any) -> Any:
        if host.name == "web2" and self.broken:
            line = "echo 'python3: not found' >&2; exit 127"
        return Context().run(line.removeprefix("sudo -n "), in_stream=False, **options)


def environment(site: Site) -> Environment:
    return cast(Environment, site)


def test_what_is_fed_to_a_command_arrives_and_its_answer_is_json() -> None:
    site = Site()
    said = remote.answer(environment(site), site.hosts["web1"], ["cat"], stdin=json.dumps({"it's": "'$HOME'"}))
    assert said == {"it's": "'$HOME'"}
    assert remote.answer(environment(site), site.hosts["web1"], ["cat"], stdin="") is None


@pytest.mark.parametrize("show_progress", [False, True])
def test_only_progress_is_shown(show_progress: bool, capfd: pytest.CaptureFixture[str]) -> None:
    site = Site()
    command = ["sh", "-c", "echo 1; echo half of it >&2"]
    assert remote.answer(environment(site), site.hosts["web1"], command, show_progress=show_progress) == 1
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "half of it\n" if show_progress else "")


AWAY = (Site(TimeoutError("no route")), "web2 does not answer: no route", Exit.UNAVAILABLE, "not reachable: no route")
BROKEN = (Site(broken=True), "web2: python3: not found", Exit.FAILED, "did not answer: python3: not found")


@pytest.mark.parametrize(("site", "says", "code", "shown"), [AWAY, BROKEN], ids=["away", "broken"])
def test_a_host_that_cannot_tell_is_named_with_the_reason(
    site: Site, says: str, code: Exit, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = list(site.hosts.values())
    with pytest.raises(Failure, match=says) as failed:
        remote.of_all(hosts, lambda host: remote.answer(environment(site), host, ["echo", "1"]))
    assert failed.value.code == code
    monkeypatch.setattr(remote.on_host, "path_of", lambda _: SimpleNamespace(read_text=lambda: "1"))
    monkeypatch.setattr(status, "judge", lambda _: None)
    with pytest.raises(Failure, match=rf"which releases they have: web2 \({shown.partition(': ')[2]}\)") as failed:
        releases.ask(environment(site), hosts[1:])
    assert failed.value.code == Exit.UNAVAILABLE
    assert [host.problems for host in status.status(environment(site))][1] == [shown]


def test_what_is_wrong_here_is_no_host_s_fault() -> None:
    site = Site(Failure("There is no key for SSH.", code=Exit.BAD_CONFIGURATION))
    with pytest.raises(Failure, match="no key") as failed:
        status.status(environment(site))
    assert failed.value.code == Exit.BAD_CONFIGURATION
