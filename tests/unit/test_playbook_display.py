"""What a person sees while a playbook runs."""

from __future__ import annotations

import io
import re
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from ops import playbook_log
from ops.playbook_display import Display
from ops.playbook_log import Follower

ALL = ["data1", "data2", "data3", "lb1", "web1"]
LONG = "/etc/systemd/system/longhaul-processor@.service.d/limits-of-units.conf"


def event(kind: str, at: float = 0.0, **values: Any) -> dict[str, Any]:
    return {"event": kind, "at": at, **values}


def task(number: int, role: str, name: str, at: float = 0.0, *, hosts: int = 5) -> dict[str, Any]:
    return event("task", at, role=role, task=name, number=number, total=40, hosts=hosts)


def changed(host: str, role: str, name: str, item: str = "") -> dict[str, Any]:
    return event("changed", host=host, role=role, task=name, item=item)


def happened(what: str, host: str, role: str, name: str, reason: str, **values: Any) -> dict[str, Any]:
    return event(what, host=host, role=role, task=name, reason=reason, **values)


EVENTS = [
    event("play", play="Give all hosts what they need", hosts=ALL),
    task(1, "base", "Write the accounts"),
    *(changed(host, "base", "Write the accounts", item) for host in ALL for item in ("ops", "[bold]deploy")),
    task(2, "base", "Look at the disk", at=1.0),
    task(3, "web", "Write the units", at=2.5),
    changed("web1", "web", "Write the units", LONG),
    task(4, "web", "Wait for the service", at=3.0),
    *(
        happened("retried", "web1", "web", "Wait for the service", "refused", attempt=attempt, attempts=30)
        for attempt in (2, 3)
    ),
    task(5, "web", "Look", at=9.0),
    happened("warned", "web1", "web", "Look", "a setting waits for a restart"),
    happened("failed", "web1", "web", "Look", "never mind", outcome="ignored"),
    event("play", at=10.0, play="Switch", hosts=["web1"]),
    task(6, "", "Switch it", at=10.0, hosts=0),
    happened("failed", "web1", "", "Switch it", "\x1b[31mit broke\x1b[0m\n  twice", outcome="rescued"),
    happened("failed", "web1", "", "Switch it", "it [red]broke[/]", outcome="failed"),
]
END = event("end", at=12.0, hosts={**dict.fromkeys(ALL, 1), "web1": 2, "localhost": 0})


def shown(
    events: Iterable[dict[str, Any]], *, width: int = 80, terminal: bool = False, failed: bool = False, **options: bool
) -> str:
    """All that is printed; on a terminal, the bar as it is at the end too."""
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=terminal, highlight=False, soft_wrap=True)
    display = Display("site", console, **options)
    with display:
        for each in events:
            display.take(each)
        display.tick()
    display.show_summary(failed=failed)
    return output.getvalue()


def lines_of(output: str) -> list[str]:
    """The lines without colours and without what moves the cursor."""
    return [
        line.rstrip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)) if line.strip()
    ]


def test_without_a_terminal_it_is_a_line_for_each_role_change_retry_and_failure() -> None:
    output = shown([*EVENTS, END])
    assert "\x1b" not in output
    *lines, summary = output.splitlines()
    assert lines == [
        f"site 1/40 (0 s): base on {', '.join(ALL)}",
        f"changed   {', '.join(ALL)}  base: Write the accounts: ops, [bold]deploy",
        f"site 3/40 (0 s): web on {', '.join(ALL)}",
        f"changed   web1      web: Write the units: {LONG}",
        "retried   web1      web: Wait for the service: refused",
        "warned    web1      web: Look: a setting waits for a restart",
        "ignored   web1      web: Look: never mind",
        "site 6/40 (0 s): Switch on web1",
        "rescued   web1      Switch it: it broke    twice",
        "failed    web1      Switch it: it [red]broke[/]",
    ]
    assert re.fullmatch(
        r"site: 40 tasks on 5 hosts in \d+ s; changed: data1 1, data2 1, data3 1, lb1 1, web1 2", summary
    )


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_no_line_is_longer_than_it_is_wide(width: int) -> None:
    lines = lines_of(shown([*EVENTS, END], width=width, terminal=True))
    assert max(map(len, lines)) <= width
    assert "changed   5 hosts   base: Write the accounts: ops, [bold]deploy" in lines
    (units,) = {line for line in lines if "Write the units: " in line}
    assert units.startswith("changed   web1      web: Write the units: /etc/systemd/system/longhaul-")
    assert units.endswith("…") == (width == 80)
    assert "failed    web1      Switch it: it [red]broke[/]" in lines
    assert not any(line.startswith("site 1/40 ") for line in lines), "the bar says that"


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_has_count_task_hosts_and_time(width: int) -> None:
    begun = time.monotonic() - 12
    events = [
        *EVENTS[:1],
        task(31, "storage", "Prove that what was written to one host is on all", at=begun),
        event("ended", host="web1", done=2, hosts=5),
    ]
    (bar,) = {line for line in lines_of(shown(events, width=width, terminal=True)) if "31/40" in line}
    assert len(bar) <= width
    assert bar.startswith("━")
    assert "31/40 storage: Prove that what was " in bar
    assert re.search(r" 2/5 hosts, 12 s +0:00:00$", bar), bar


def test_an_attempt_is_shown_in_the_bar() -> None:
    output = shown(EVENTS[: EVENTS.index(task(5, "web", "Look", at=9.0))], width=120, terminal=True)
    assert "web: Wait for the service (attempt 3 of 30)" in output


def test_a_check_says_what_differs() -> None:
    output = shown([*EVENTS[:3], END], check=True)
    assert "differs   data1     base: Write the accounts: ops" in output
    assert "differs: data1 1" in output


def test_verbose_is_the_output_of_ansible_and_the_slowest_tasks() -> None:
    output = io.StringIO()
    display = Display("site", Console(file=output, width=200), verbose=True)
    with display:
        for each in [*EVENTS, END]:
            display.take(each)
        display.take_output("TASK [base : Write the accounts] ****")
    display.show_summary(failed=False)
    first, _, heading, *slowest = output.getvalue().splitlines()
    assert first == "TASK [base : Write the accounts] ****"
    assert heading == "slowest tasks of site:"
    assert slowest[:3] == [
        "    6.0 s  web: Wait for the service",
        "    2.0 s  Switch it",
        "    1.5 s  base: Look at the disk",
    ]


def test_a_failure_says_how_far_it_came() -> None:
    *_, summary = shown([*EVENTS, END], failed=True).splitlines()
    assert summary.startswith("site: failed at task 6 of 40 after ")


def test_a_playbook_that_never_began_is_shown_too() -> None:
    assert shown([], failed=True).startswith("site: failed at task 0 of 0 after 0 s; changed: nothing")


def test_changes_of_a_playbook_that_is_cut_off_are_shown() -> None:
    assert "changed   data1     base: Write the accounts: ops" in shown(EVENTS[:3])


# Log files


def test_a_log_is_for_its_owner_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playbook_log, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(playbook_log, "KEPT", 3)
    made = [playbook_log.create("lab-site") for _ in range(5)]
    assert sorted((tmp_path / "logs").iterdir()) == made[2:]
    assert stat.S_IMODE(made[-1].stat().st_mode) == 0o600
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-lab-site\.log", made[-1].name)


def test_a_follower_reads_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_text("one\ntw")
    follower = Follower(path)
    assert follower.lines() == ["one"]
    with path.open("a") as file:
        file.write("o\nthree")
    assert follower.lines() == ["two"]
    assert follower.lines() == []
    follower.close()


def test_text_of_ansible_is_not_markup() -> None:
    output = io.StringIO()
    display = Display("site", Console(file=output, width=40), verbose=True)
    line = "ok: [web1] => (item=[red]x[/red]) " + "long " * 20
    display.take_output(line)
    assert output.getvalue() == Text(line).plain + "\n"
