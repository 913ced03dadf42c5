"""What `./inv status` shows on narrow and wide terminals."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ops.environment import Environment
from ops.status import HostStatus, short_versions, show_table

CLEAN, DIRTY = "20261129T125924-6bfa0457c06a", "20261128T101500-0a1b2c3d4e5f-dirty-6a7b8c9d0e1f"
SHIPPED = "20261130T080000-ffa011223344"


def host(name: str, *functions: str, problem: str = "", **said: object) -> HostStatus:
    found = HostStatus(name, "198.18.0.11", sorted(functions), {"units": dict.fromkeys("abcdef", "active"), **said})
    if problem:
        found.blame(problem)
    return found


HOSTS = [
    host("lb1", "loadbalancers", problem="HAProxy sees web2 as DOWN"),
    host("web1", "web", release=CLEAN),
    host("web2", "web", release=DIRTY, problem="longhaul-web.service is failed"),
    host("worker1", "workers", release=CLEAN, processors=SHIPPED, problem="longhaul-processor.socket is inactive"),
    host("data1", "database", "storage", members={"data1": "leader running"}),
    host("ops1", "packages", "monitoring", "backup", problem="drained: [bold]a disk is replaced"),
]
WORDS = {
    *("lb1", "web1", "web2", "worker1", "data1", "ops1", "198.18.0.11", "6/6", "host", "functions"),
    *("6bfa045", "0a1b2c3-0e1f", "ffa0112", CLEAN, DIRTY, SHIPPED, "longhaul-web.service"),
    *("longhaul-processor.socket", "HAProxy", "DOWN", "primary", "[bold]a"),
}


def shown(width: int, environment: Environment) -> list[str]:
    output = io.StringIO()
    show_table(Console(file=output, width=width), environment, HOSTS)
    return output.getvalue().splitlines()


@pytest.fixture
def environment() -> Environment:
    return Environment.of_checkout("prod")


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_whole_words(width: int, environment: Environment) -> None:
    lines = shown(width, environment)
    assert max(map(len, lines)) <= width
    missing = WORDS - {word for line in lines for word in line.replace(",", "").split()}
    assert not missing, "\n".join(lines)
    assert any("processors ffa0112" in line for line in lines)


def test_functions_are_abbreviated_only_where_they_must_be(environment: Environment) -> None:
    narrow, wide = shown(80, environment), shown(120, environment)
    assert any(line.split()[:5] == ["ops1", "198.18.0.11", "bak", "mon", "pkg"] for line in narrow)
    assert "bak = backup, db = database, lb = loadbalancers" in " ".join(narrow)
    assert any(line.split()[:5] == ["ops1", "198.18.0.11", "backup", "monitoring", "packages"] for line in wide)
    assert not any("bak" in line for line in wide)


def test_versions_that_look_the_same_are_shown_longer() -> None:
    assert short_versions({CLEAN, DIRTY, "other"}) == {CLEAN: "6bfa045", DIRTY: "0a1b2c3-0e1f", "other": "other"}
    again = f"{CLEAN[:-5]}0000f"
    assert short_versions({CLEAN, again}) == {CLEAN: "6bfa0457c06a", again: "6bfa0450000f"}
    same = f"20270101T000000{CLEAN[15:]}"
    assert short_versions({CLEAN, same}) == {CLEAN: CLEAN, same: same}
