"""What is written down of a playbook while it runs."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ops import ansible
from ops.paths import tool
from tests.support.commands import run

LOCAL = f"{{ansible_connection: local, ansible_python_interpreter: {sys.executable}}}"
AWAY = "{ansible_host: 127.0.0.1, ansible_port: 1}"
HOSTS = f"all: {{hosts: {{one: {LOCAL}, two: {LOCAL}, three: {LOCAL}, gone: {AWAY}}}}}\n"
WARNS = """
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"text": {}}, supports_check_mode=True)
module.warn(module.params["text"])
module.exit_json()
"""
Event = dict[str, Any]


def events_of(folder: Path, plays: str, *arguments: str, mitogen: bool = False) -> list[Event]:
    """Run plays on hosts that are this machine, and one that does not answer; what was written down, without times."""
    (folder / "hosts.yml").write_text(HOSTS)
    (folder / "library").mkdir()
    (folder / "library" / "warns.py").write_text(WARNS)
    (folder / "site.yml").write_text(plays)
    path = folder / "events.jsonl"
    command = (tool("ansible-playbook"), "-i", str(folder / "hosts.yml"), *arguments, str(folder / "site.yml"))
    variables = {**ansible.settings(), ansible.EVENTS_FILE: str(path)}
    variables["ANSIBLE_STRATEGY"] = "mitogen_unpinned" if mitogen else "linear"
    done = run(*command, seconds=120, env=variables)
    assert "Callback dispatch" not in done.stdout, done.stdout
    events = [json.loads(line) for line in path.read_text().splitlines()]
    times = [event.pop("at") for event in events]
    assert times == sorted(times)
    return events


@dataclass(frozen=True)
class Played:
    """What was written down of some plays, and the folder that they worked in."""

    folder: Path
    events: list[Event]

    def of_play(self, name: str) -> list[Event]:
        """Only what was written down of one play."""
        begins = [number for number, event in enumerate(self.events) if event["event"] == "play"]
        begin = next(number for number in begins if self.events[number]["play"] == name)
        return self.events[begin : next((number for number in begins if number > begin), len(self.events) - 1)]


def of(events: list[Event], kind: str, *keys: str) -> list[tuple[Any, ...]]:
    """These values of all events of a kind, sorted by host where there is one."""
    found = [tuple(event[key] for key in keys) for event in events if event["event"] == kind]
    return sorted(found) if "host" in keys else found


def steps(events: list[Event]) -> list[str]:
    """How far it was at each task."""
    return [f"{event['task']} {event['number']}/{event['total']}" for event in events if event["event"] == "task"]


PLAYS = """
- name: Changes
  hosts: one:two
  gather_facts: false
  tasks:
    - {name: Write, copy: {content: "", dest: "FOLDER/{{ inventory_hostname }}"}}
    - {name: Look, warns: {text: "{{ item }}"}, loop: [careful]}
    - name: Loop
      file: {path: "FOLDER/{{ item }}-{{ inventory_hostname }}", state: directory}
      loop: [a, b]
      when: inventory_hostname == "two"
- name: Roles
  hosts: one
  gather_facts: false
  roles: [pack]
  tasks: [{name: Import, import_role: {name: pack, tasks_from: more}}, {name: Own, debug: {}}]
- name: Failures
  hosts: one:two
  gather_facts: false
  tasks:
    - when: inventory_hostname == "one"
      block:
        - {name: Ignored, fail: {msg: never mind}, ignore_errors: true}
        - {name: Expected, command: "false", changed_when: false, failed_when: false}
        - name: Again
          command: "false"
          changed_when: false
          register: again
          until: again is success
          retries: 2
          delay: 0
          ignore_errors: true
        - block:
            - block:
                - {name: Breaks, command: {argv: [sh, -c, "echo it broke >&2; exit 3"]}, changed_when: false}
          rescue:
            - {name: Mend, debug: {msg: mended}}
        - name: Items
          fail: {msg: "{{ item }} is bad"}
          loop: [x, y]
          when: item == "y"
- name: Secrets
  hosts: two:three
  gather_facts: false
  tasks:
    - when: inventory_hostname == "two"
      block:
        - {name: Write, copy: {content: Geheimnis, dest: FOLDER/Geheimnis}, no_log: true}
        - name: Loop
          copy: {content: "{{ item }}", dest: "FOLDER/{{ item }}"}
          loop: [Geheimnis2]
          no_log: true
        - name: Again
          command: {argv: [sh, -c, "echo Geheimnis >&2; false"]}
          no_log: true
          register: again
          until: again is success
          retries: 1
          delay: 0
          ignore_errors: true
        - {name: Items, fail: {msg: "{{ item }}"}, loop: [Geheimnis], no_log: true}
- name: Away
  hosts: gone
  gather_facts: false
  tasks: [{name: Ping, ping: {}}]
"""


@pytest.fixture(scope="module", params=[False, True], ids=["linear", "mitogen"])
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """All of these plays, with Ansible's own strategy and with mitogen's."""
    folder = tmp_path_factory.mktemp("played")
    tasks = folder / "roles" / "pack" / "tasks"
    tasks.mkdir(parents=True)
    (tasks / "main.yml").write_text("[{name: Main, debug: {}}]\n")
    (tasks / "more.yml").write_text("[{name: More, debug: {}}]\n")
    return Played(folder, events_of(folder, PLAYS.replace("FOLDER", str(folder)), mitogen=request.param))


def test_a_change_names_host_task_and_item(played: Played) -> None:
    events = played.of_play("Changes")
    assert of(events, "changed", "host", "task", "item") == [
        ("one", "Write", f"{played.folder}/one"),
        ("two", "Loop", f"{played.folder}/a-two"),
        ("two", "Loop", f"{played.folder}/b-two"),
        ("two", "Write", f"{played.folder}/two"),
    ]
    assert of(events, "ended", "done", "hosts") == [(1, 2), (2, 2)] * 3
    changed = {"gone": 0, "one": 1, "three": 0, "two": 5}  # an attempt that failed and was ignored counts too
    assert played.events[-1] == {"event": "end", "hosts": changed}


def test_a_warning_of_a_module_is_written_down(played: Played) -> None:
    warned = of(played.of_play("Changes"), "warned", "host", "task", "reason")
    assert warned == [("one", "Look", "careful"), ("two", "Look", "careful")]


def test_a_check_names_what_would_change(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("by hand")
    plays = PLAYS.replace("FOLDER", str(tmp_path)).partition("- name: Roles")[0]
    events = events_of(tmp_path, plays, "--check", "--diff")
    assert of(events, "changed", "host", "task", "item") == [
        ("one", "Write", f"{tmp_path}/one"),
        ("two", "Loop", f"{tmp_path}/a-two"),
        ("two", "Loop", f"{tmp_path}/b-two"),
        ("two", "Write", ""),  # of a new file the module tells nothing
    ]
    assert not (tmp_path / "two").exists()


def test_a_task_names_its_role(played: Played) -> None:
    assert of(played.of_play("Roles"), "task", "role", "task") == [("pack", "Main"), ("pack", "More"), ("", "Own")]


def test_a_failure_says_why_and_what_becomes_of_it(played: Played) -> None:
    events = played.of_play("Failures")
    exit_code = "The command exited with a non-zero return code."
    assert of(events, "failed", "task", "outcome", "reason") == [
        ("Ignored", "ignored", "never mind"),
        ("Again", "ignored", exit_code),
        ("Breaks", "rescued", "it broke"),
        ("Items", "failed", "y is bad"),
    ]
    retries = [(2, 3, exit_code), (3, 3, exit_code)]
    assert of(events, "retried", "attempt", "attempts", "reason") == retries


def test_what_a_task_keeps_secret_is_not_written_down(played: Played) -> None:
    assert "Geheimnis" not in json.dumps(played.events)
    events = played.of_play("Secrets")
    assert of(events, "changed", "task", "item") == [("Write", ""), ("Loop", "")]
    assert of(events, "retried", "task", "reason") == [("Again", "it keeps its output secret")]
    assert of(events, "failed", "task", "reason") == [
        ("Again", "it keeps its output secret"),
        ("Items", "it keeps its output secret"),
    ]


def test_a_host_that_does_not_answer_is_named(played: Played) -> None:
    ((host, outcome, reason),) = of(played.of_play("Away"), "failed", "host", "outcome", "reason")
    assert (host, outcome) == ("gone", "unreachable")
    assert reason == "ssh: connect to host 127.0.0.1 port 1: Connection refused"


COUNTED = """
- name: First
  hosts: one:two
  gather_facts: false
  serial: 1
  tasks:
    - {name: Change, command: "true", notify: Handle}
    - include_tasks: more.yml
    - block:
        - {name: Breaks, fail: {}}
        - {name: Not reached, debug: {}}
      rescue:
        - {name: Mend, debug: {}}
        - {name: Check, debug: {}}
      always:
        - {name: Always, debug: {}}
    - meta: noop
  handlers:
    - {name: Handle, command: "true"}
- name: Nobody
  hosts: nobody
  gather_facts: false
  tasks: [{name: Never, debug: {}}]
- name: Second
  hosts: two
  gather_facts: false
  serial: [1, "50%"]
  tasks: [{name: Last, debug: {}}]
"""


@pytest.mark.parametrize("mitogen", [False, True], ids=["linear", "mitogen"])
def test_tasks_are_counted_before_the_first_begins_and_grow_by_what_is_included(tmp_path: Path, mitogen: bool) -> None:
    (tmp_path / "more.yml").write_text("[{name: More, debug: {}}, {name: Still more, debug: {}}]\n")
    events = events_of(tmp_path, COUNTED, mitogen=mitogen)
    first = [
        "Change 1/11",
        "include_tasks 2/11",
        "More 3/13",
        "Still more 4/13",
        "Breaks 5/13",
        "Mend 6/15",
        "Check 7/15",
        "Always 8/15",
        "Handle 9/16",
    ]
    second = [
        "Change 11/16",
        "include_tasks 12/16",
        "More 13/18",
        "Still more 14/18",
        "Breaks 15/18",
        "Mend 16/20",
        "Check 17/20",
        "Always 18/20",
        "Handle 19/21",
    ]
    assert steps(events) == [*first, *second, "Last 21/21"]
    batches = [(event["play"], event["hosts"]) for event in events if event["event"] == "play"]
    assert batches == [("First", ["one"]), ("First", ["two"]), ("Nobody", []), ("Second", ["two"])]
