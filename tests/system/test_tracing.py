"""Traces of the whole site: from the web host that takes an upload to the script that processes it, and their end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ops.load.run import Load
from ops.paths import ROOT
from tests.support.clients import random_file
from tests.support.site import Site, inv
from tests.support.waiting import until

MB = 1_000_000
DISARM_SECONDS = 5
"""What a trace may outlive its command by."""
TOKEN_HEADER = "x-linetrace"  # the name of a header


class Tracing:
    """`./inv trace-app`, running."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.lines = directory / f"trace-{time.time_ns()}.out"
        self.said = self.lines.with_suffix(".err")
        with self.lines.open("w") as lines, self.said.open("w") as said:
            self.process = subprocess.Popen(
                [ROOT / "inv", "trace-app", *options],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=said,
                start_new_session=True,
            )
        until(lambda: "armed on" in self.said.read_text() or self.process.poll() is not None, "hosts to be armed", 30)

    def end(self, number: int | None = None, *, code: int = 0) -> str:
        """Wait for its end, after a signal if one is given; what it said."""
        if number is not None:
            os.kill(self.process.pid, number)
        assert self.process.wait(90) == code, self.said.read_text()
        return self.said.read_text()


def traces(site: Site, host: str) -> list[dict[str, Any]]:
    """The traces that the processes of a host have now, as they say themselves."""
    folder = "/run/longhaul-web" if host in site.group("web") else "/run/longhaul-worker"
    said = site.run(host, *attach("--status", folder))
    found: list[dict[str, Any]] = []
    for status in json.loads(said).values():
        assert bool(status["traces"]) == (status["tool"] is not None)
        assert status["traces"] or not status["code_with_events"]
        found += status["traces"]
    return found


def attach(*words: str) -> Sequence[str]:
    return ("/opt/longhaul/current/venv/bin/python", "-IB", "-m", "linetrace", "attach", *words)


def traced_hosts(site: Site) -> list[str]:
    return [*site.group("web"), *site.group("workers")]


def test_the_next_upload_is_followed_into_the_script_while_others_work(site: Site, users: Load, tmp_path: Path) -> None:
    """The users of the fixture, of whom nothing may fail, have begun their uploads before."""
    until(lambda: users.measure.created == users.profile.clients, "all users to have begun", 60)
    page, file = tmp_path / "trace.html", tmp_path / "followed.bin"
    tracing = Tracing(tmp_path, "--next-upload", "--values=total", "--timing", f"--output={page}", "--reason=a test")
    random_file(file, 3 * MB, seed=21)
    client = site.start("tus-js-client", file)
    said = tracing.end()
    client.wait_success(60)
    assert "its job has ended" in said
    shown = tracing.lines.read_text()
    for module in ("longhaul.web.tus:", "longhaul.uploads.receiving:", "longhaul.processing.attempt:", "__main__:"):
        assert f" {module}" in shown, f"no line of {module}\n{said}"
    script = (ROOT / "app" / "processors" / "inspect_file.py").read_text().splitlines()
    inside = [line.partition("__main__:")[2].partition(": ") for line in shown.splitlines() if "__main__:" in line]
    own = [(number, source.partition("  [+")[0]) for number, _, source in inside if not source.startswith(("##", "=="))]
    assert own
    assert all(source == script[int(number) - 1] for number, source in own)
    hosts = {line.split()[1] for line in shown.splitlines()}
    assert hosts & set(site.group("web"))
    assert len(hosts & set(site.group("workers"))) == 1
    disarmed = said.partition("disarmed: ")[2].splitlines()[0]
    assert disarmed.split(", ") == traced_hosts(site)
    assert all(not traces(site, host) for host in traced_hosts(site))
    assert "processors/inspect_file.py" in page.read_text()
    # The same lines are in the journal of the host, and the trace is on record.
    worker = next(iter(hosts & set(site.group("workers"))))
    assert f"upload={client.upload_id}" in site.run(worker, "journalctl", "-t", "longhaul-worker", "-b", seconds=60)
    record = json.loads(inv("traces", "--json", seconds=60).stdout)[0]
    assert (record["what"], record["reason"], record["ended"]) == ("the next upload", "a test", "its job has ended")
    assert record["lines"] == len(shown.splitlines())


def test_an_upload_is_followed_to_another_web_host_when_its_own_loses_its_power(site: Site, tmp_path: Path) -> None:
    """And a second trace beside it sees its own only, and goes on when the first ends."""
    web = site.group("web")
    first = Tracing(tmp_path, "--next-upload")
    second = Tracing(tmp_path, "--function=longhaul.web.tus.Tus._offset", f"--host={','.join(web)}", "--seconds=300")
    assert [len(traces(site, host)) for host in web] == [2, 2]
    file = tmp_path / "moved.bin"
    random_file(file, 30 * MB, seed=22)
    with site.line("moved", "40mbit") as line:
        client = line.start("tus-js-client", file)
        client.wait_until(lambda: line.acknowledged() > 10 * MB, "10 MB to be sent", 60)
        query = f"select server from uploads where id = '{client.upload_id}' and receiver is not null"  # noqa: S608
        lost = site.sql(query)[0][0]
        site.power_cut(lost)
        client.wait_success(120)
    said = first.end()
    (other,) = set(web) - {lost}
    assert "ended: its job has ended" in said
    assert f"{lost} does not answer" in said
    assert said.partition("disarmed: ")[2].splitlines()[0].split(", ") == [other, *site.group("workers")]
    assert {shown.split()[1] for shown in first.lines.read_text().splitlines()} > set(web)
    assert len(traces(site, other)) == 1, "the second trace ended with the first"
    second.end(signal.SIGINT)
    modules = {shown.split()[3].partition(":")[0] for shown in second.lines.read_text().splitlines()}
    assert modules == {"longhaul.web.tus"}
    assert not traces(site, other)


def test_all_is_disarmed_when_the_command_is_killed(site: Site, tmp_path: Path) -> None:
    tracing = Tracing(tmp_path, "--seconds=300")
    assert all(traces(site, host) for host in traced_hosts(site))
    os.killpg(tracing.process.pid, signal.SIGKILL)
    tracing.process.wait()
    until(
        lambda: not any(traces(site, host) for host in traced_hosts(site)),
        "all processes to be disarmed",
        2 * DISARM_SECONDS,  # what asking itself takes is not counted
    )


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--upload=none-of-this-name", "--seconds=3"], 1, "Nothing ran for the upload none-of-this-name"),
        (["--function=Tus.recieve"], 64, "No process knows a function 'Tus.recieve'"),
        (["--host=web3", "--seconds=3"], 64, "There is no host 'web3'"),
        (["--host=data1", "--seconds=3"], 64, "data1: no process there could have all that runs"),
        ([], 64, "Say what to trace"),
    ],
)
@pytest.mark.usefixtures("site")
def test_what_cannot_be_traced_is_said(options: list[str], code: int, reason: str) -> None:
    answer = inv("trace-app", *options, seconds=60)
    assert (answer.returncode, reason in answer.stdout) == (code, True), answer.stdout


def test_nobody_but_root_and_the_service_itself_may_trace(site: Site) -> None:
    web = site.group("web")[0]
    socket = site.run(web, "sh", "-c", "ls /run/longhaul-web/*.sock").strip()
    assert site.run(web, "stat", "-c", "%a %U", socket).split() == ["600", "longhaul-web"]
    for user in ("nobody", "ops"):
        refused = site.run(web, "sh", "-c", f"! sudo -u {user} {' '.join(attach('--status', socket))} 2>&1")
        assert "only the user of the process and root may trace it" in refused
        assert '"traces"' not in refused


def test_an_operator_s_own_request_is_traced_by_a_token(site: Site) -> None:
    header = inv("trace-token", seconds=60).stdout.splitlines()[0]
    name, _, token = header.partition(": ")
    assert name == TOKEN_HEADER
    web = site.group("web")

    def journal() -> str:
        return "".join(site.run(host, "journalctl", "-t", "linetrace", "-o", "cat", "--since", "-2min") for host in web)

    def refusals() -> str:
        return "".join(site.run(host, "journalctl", "-u", "longhaul-web", "-o", "cat", "-n", "50") for host in web)

    with site.session() as session:
        good = session.get(f"{site.url}/", headers={TOKEN_HEADER: token}, timeout=30)
        request = good.headers["x-request-id"]
        until(lambda: f"request={request}" in journal(), "the lines of the request", 15)
        assert "longhaul.web.pages:" in journal()
        head, _, signature = token.partition(".")
        altered = f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
        session.get(f"{site.url}/", headers={TOKEN_HEADER: altered}, timeout=30)
        until(lambda: "token refused: the token was altered" in refusals(), "the refusal", 15)
        expired = inv("trace-token", "--seconds=1", seconds=60).stdout.splitlines()[0].partition(": ")[2]
        time.sleep(1.1)
        session.get(f"{site.url}/", headers={TOKEN_HEADER: expired}, timeout=30)
        until(lambda: "token refused: the token has expired" in refusals(), "the refusal", 15)
    assert not any(traces(site, host) for host in web)


def test_secrets_are_masked_in_values(site: Site, tmp_path: Path) -> None:
    tracing = Tracing(tmp_path, "--user=operator", "--values=*", "--calls", "--returns")
    file = tmp_path / "planted.bin"
    random_file(file, 1 * MB, seed=23)
    client = site.start("tus-js-client", file)
    client.wait_success(60)
    until(lambda: "planted.bin" in tracing.lines.read_text(), "values of the upload", 30)
    tracing.end(signal.SIGINT)
    site.wait_done(client.upload_id)
    shown = tracing.lines.read_text()
    key = client.url.rsplit("/", 2)[1]
    assert site.token not in shown
    assert key not in shown
    assert "***" in shown


def test_stacks_tell_where_processes_are_even_of_one_that_cannot_answer(site: Site) -> None:
    """A stopped worker stands for one that holds the interpreter: py-spy reads it from outside."""
    stopped, other = site.group("workers")
    site.run(stopped, "systemctl", "kill", "--signal=STOP", "longhaul-worker.service")
    try:
        answer = inv("stacks", "--json", seconds=120)
    finally:
        site.run(stopped, "systemctl", "kill", "--signal=CONT", "longhaul-worker.service")
    assert answer.returncode == 0, answer.stdout
    found = json.loads(answer.stdout)
    assert {host: [process["by"] for process in said["processes"]] for host, said in found.items()} == {
        host: ["py-spy" if host == stopped else "itself"] for host in traced_hosts(site)
    }
    assert "does not answer" in found[stopped]["processes"][0]["why"]
    for said in found.values():
        assert any(frame["file"].endswith("/longhaul/cli.py") for frame in said["processes"][0]["frames"])
    (running,) = found[other]["processes"]
    assert any(frame["file"].endswith("/longhaul/processing/queue.py") for frame in running["frames"])
