"""The module that restarts one of several: when it refuses, what it leaves for the next run, and how long it looks."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.unit.test_modules_of_the_data_tier import FailedError, fail_json, load

unit_in_turn = load("unit_in_turn")


class Site:
    """Hosts behind one server on this machine: each answers under its name with its status."""

    def __init__(self) -> None:
        self.statuses = {"data1": 200, "data2": 200}
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(site.statuses[self.path.removeprefix("/")])
                self.end_headers()
                self.wfile.write(b"said the host")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.urls = [f"http://127.0.0.1:{self.server.server_port}/{name}" for name in self.statuses]


@pytest.fixture
def site() -> Iterator[Site]:
    hosts = Site()
    thread = threading.Thread(target=hosts.server.serve_forever, daemon=True)
    thread.start()
    yield hosts
    hosts.server.shutdown()
    hosts.server.server_close()
    thread.join(5)


class Host:
    """The Ansible module on a host whose systemctl obeys; `breaks` is what the new settings do to the site."""

    def __init__(self, site: Site, breaks: dict[str, int] | None = None) -> None:
        self.site, self.breaks, self.commands = site, breaks or {}, list[str]()
        self.params = {
            "units": ["x.service"],
            "state": "restarted",
            "seconds": 0.3,
            "timeout": 0.3,
        }

    def run_command(self, command: list[str], **_: Any) -> tuple[int, str, str]:
        """Do it."""
        self.commands.append(" ".join(command[:2]))
        if command[1] == "restart":
            self.site.statuses.update(self.breaks)
        return 0, "", ""

    fail_json = staticmethod(fail_json)


@pytest.fixture
def places(site: Site, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The site as the module asks it, only not by TLS and with less patience."""
    monkeypatch.setattr(unit_in_turn, "PATIENCE_SECONDS", 0.3)
    return unit_in_turn.Places(site.urls, urllib.request.build_opener())


DONE = ["systemctl set-property", "systemctl restart"]


def test_well_before_and_after(site: Site, places: Any) -> None:
    host = Host(site)
    unit_in_turn.change(host, places)
    assert host.commands == DONE


def test_an_answer_below_500_is_good(site: Site, places: Any) -> None:
    site.statuses["data1"] = 404
    unit_in_turn.change(Host(site), places)


def test_nothing_is_touched_while_another_host_does_not_serve(site: Site, places: Any) -> None:
    """And the unit is marked, so that the next run knows."""
    site.statuses["data2"] = 503
    host = Host(site)
    with pytest.raises(FailedError, match=r"data2: 503 said the host.*run this again"):
        unit_in_turn.change(host, places)
    assert host.commands == DONE[:1]


def test_settings_that_do_not_work_are_seen(site: Site, places: Any) -> None:
    with pytest.raises(FailedError, match="data1: 507"):
        unit_in_turn.change(Host(site, {"data1": 507}), places)


def test_a_host_that_is_gone_does_not_serve(site: Site, places: Any) -> None:
    places.urls.append("http://127.0.0.1:1/nobody")
    with pytest.raises(FailedError, match=r"127\.0\.0\.1:1/nobody: .*refused"):
        unit_in_turn.change(Host(site), places)
