"""What arrives at syslog and in files."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from linetrace.record import Line
from linetrace.sinks import LONGEST_DATAGRAM, SinkError, SinkLost, SyslogSink, cut, open_sink

LINE = Line(1_800_000_000.25, "line", "app.web", 7, "    return größe", ids={"request": "a1", "upload": 'u"]\\\n7'})


@pytest.fixture
def syslog(tmp_path: Path) -> Iterator[socket.socket]:
    """A syslog daemon's socket, at tmp_path/log."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / "log"))
        daemon.settimeout(5)
        yield daemon


def test_the_plain_form_is_what_journald_and_rsyslog_read(tmp_path: Path, syslog: socket.socket) -> None:
    sink = SyslogSink(str(tmp_path / "log"), facility="local3", tag="app")
    assert sink.send([LINE, LINE._replace(ids={})]) == 0
    begins = f"<{19 * 8 + 6}>app[{os.getpid()}]: "
    assert syslog.recv(9999).decode() == f'{begins}[request=a1 upload=u"?\\?7] app.web:7:     return größe'
    assert syslog.recv(9999).decode() == f"{begins}app.web:7:     return größe"
    sink.close()


def test_rfc_5424_has_the_ids_as_structured_data(tmp_path: Path, syslog: socket.socket) -> None:
    sink = open_sink(f"syslog:{tmp_path / 'log'}", form="rfc5424")
    assert sink.send([LINE, LINE._replace(ids={})]) == 0
    head = rf"<14>1 2027-01-15T08:00:00\.250000Z {re.escape(socket.gethostname())} linetrace {os.getpid()} line "
    data = r'\[linetrace@32473 request="a1" upload="u\\"\\\]\\\\\?7"\] '
    assert re.fullmatch(head + data + "app.web:7:     return größe", syslog.recv(9999).decode())
    assert re.fullmatch(head + "- app.web:7:     return größe", syslog.recv(9999).decode())
    sink.close()


def test_long_lines_are_cut_with_a_mark(tmp_path: Path, syslog: socket.socket) -> None:
    sink = SyslogSink(str(tmp_path / "log"))
    assert sink.send([LINE._replace(text="ä" * 5000)]) == 0
    received = syslog.recv(99_999)
    assert len(received) <= LONGEST_DATAGRAM
    assert re.search(r"ä… \[\d,\d{3} octets cut\]$", received.decode())
    sink.close()


@pytest.mark.parametrize("text", ["", "short", "ä" * 1023, "ä" * 1024, "ä" * 1025, "€" * 5000, "x" * 2049])
def test_cut_never_breaks_a_character(text: str) -> None:
    data = cut(text, 2048)
    assert len(data) <= 2048
    assert data.decode().startswith(text[:500])
    assert (data.decode() == text) == (len(text.encode()) <= 2048)


def test_syslog_that_goes_away_and_comes_back(
    tmp_path: Path, syslog: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("linetrace.sinks._monotonic", lambda: now)
    sink = SyslogSink(str(tmp_path / "log"))
    syslog.close()
    (tmp_path / "log").unlink()
    assert sink.send([LINE, LINE]) == 2
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / "log"))
        assert sink.send([LINE]) == 1  # not yet tried again
        now += 1.5
        assert sink.send([LINE]) == 0
        daemon.settimeout(5)
        assert daemon.recv(9999).endswith("größe".encode())
    sink.close()


def test_files_are_appended_to_and_are_their_owners(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    for number in (1, 2):
        sink = open_sink(f"file:{path}")
        assert sink.send([LINE._replace(number=number, text="x")]) == 0
        sink.close()
    assert path.read_text() == "app.web:1: x\napp.web:2: x\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(SinkError, match="cannot be written"):
        open_sink(f"file:{tmp_path / 'link'}")
    assert not (tmp_path / "target").exists()


def test_a_full_pipe_loses_lines_and_a_closed_one_ends_the_trace() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    sink = open_sink(f"fd:{writing}")
    lost = sum(sink.send([LINE._replace(text="x" * 1000)]) for _ in range(200))
    assert 0 < lost < 200
    os.close(reading)
    with pytest.raises(SinkLost, match="Broken pipe"):
        sink.send([LINE])
    sink.close()
    os.close(writing)


@pytest.mark.parametrize("name", ["", "no", "file:", "fd:", "fd:x", "fd:9999", "stdout:1", "file:/no/such/file"])
def test_unknown_sinks_are_refused(name: str) -> None:
    with pytest.raises(SinkError):
        open_sink(name)


@pytest.mark.parametrize("tag", ["", "two words", "ä", "x" * 49, "a\nb"])
def test_tags_that_syslog_cannot_have(tmp_path: Path, syslog: socket.socket, tag: str) -> None:
    with pytest.raises(SinkError, match="a syslog tag"):
        SyslogSink(str(tmp_path / "log"), tag=tag)
