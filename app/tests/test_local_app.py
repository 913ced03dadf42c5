"""`./inv app.run`: refusals that say what to do. That it runs is what the browser tests stand on."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ops.errors import Failure
from ops.local_app import running


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Failure, match="--port") as refused, running(tmp_path, port=taken.getsockname()[1]):
            pass
    assert "cannot be used" in refused.value.message


def test_root_on_what_a_user_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Failure, match="without sudo"), running(tmp_path, port=0):
        pass


def test_a_second_run(tmp_path: Path) -> None:
    with running(tmp_path, port=0), pytest.raises(Failure, match="already runs"), running(tmp_path, port=0):
        pass


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="shorter path"), running(tmp_path / ("x" * 100), port=0):
        pass


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    with running(tmp_path, port=0) as first:
        token = first.token
    with running(tmp_path, port=0) as second:
        assert second.token == token
    assert not list((tmp_path / "work").iterdir())
