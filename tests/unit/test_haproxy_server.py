"""The module that waits for a server and watches it: what it counts as unfit, against a socket that plays HAProxy."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_modules_of_the_data_tier import load

haproxy_server = load("haproxy_server")
HEAD = "# pxname,svname,status,stot,hrsp_5xx,econ,eresp,chkdown,"


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[list[str]]:
    """Rows for web/web1, `status,stot,hrsp_5xx,econ,eresp,chkdown`, told one after another, the last one again."""
    rows: list[str] = []
    path = tmp_path / "s"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        for number in itertools.count():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(100)
                row = rows[min(number, len(rows) - 1)]
                connection.sendall(f"{HEAD}\nother,web1,DOWN,1,1,1,1,1,\nweb,web1,{row},\n".encode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield rows
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(5)


def watched(tmp_path: Path, *, seconds_ago: float = 0) -> str:
    """What the watch of three errors and five percent says, of the time since the first row was told."""
    place = {"socket": str(tmp_path / "s"), "backend": "web", "server": "web1"}
    since = haproxy_server.seen(haproxy_server.row_of(*place.values()))
    since["at"] -= seconds_ago
    wanted = {"states": ["UP"], "watch": 0.3, "since": since, "errors": 3, "errors_percent": 5}
    return str(haproxy_server.watch({**place, **wanted}))


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("UP,1000,7,7,7,1", "UP,1100,7,7,7,1", ""),
        ("UP,1000,0,0,0,1", "UP,1010,2,0,0,1", ""),
        ("UP,1000,0,0,0,1", "UP,1100,1,1,1,1", ""),
        ("UP,1000,0,0,0,1", "UP,1010,1,1,1,1", "3 of 10 requests"),
        ("UP,1000,0,0,0,1", "UP,1000,0,5,0,1", "5 of 0 requests"),
        ("UP,1000,0,0,0,1", "DOWN 1/2,1000,0,0,0,1", "it went to 'DOWN 1/2'"),
        ("UP,1000,0,0,0,1", "UP,1000,0,0,0,2", "it was down for a moment"),
        ("UP,1000,9,9,9,9", "UP,10,1,1,0,0", ""),
        ("UP,1000,9,9,9,9", "UP,10,1,1,1,0", "3 of 10 requests"),
    ],
)
def test_errors_count_by_number_and_by_share(
    tmp_path: Path, answers: list[str], before: str, after: str, says: str
) -> None:
    answers += [before, after]
    said = watched(tmp_path)
    assert says in said
    assert bool(said) == bool(says)
    assert bool(watched(tmp_path)) == ("DOWN" in after), "the same counters again are no new errors"


def test_the_time_of_one_that_was_seen_long_ago_is_over(tmp_path: Path, answers: list[str]) -> None:
    """While one load balancer is watched, the others' time runs as well: there, the counters are looked at once."""
    answers += ["UP,1,0,0,0,0", "UP,10,2,0,0,0", "DOWN,10,2,0,0,0"]
    assert not watched(tmp_path, seconds_ago=1)
    assert watched(tmp_path) == "it went to 'DOWN'"


def test_the_row_is_that_of_the_server_in_its_backend(tmp_path: Path, answers: list[str]) -> None:
    answers += ["UP,1,0,0,0,0"]
    assert haproxy_server.row_of(str(tmp_path / "s"), "web", "web1")["status"] == "UP"
    assert haproxy_server.row_of(str(tmp_path / "s"), "web", "web9") == {}
