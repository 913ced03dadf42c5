"""The repository keeps its rules, and each rule rejects a known-bad case."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ops import docs, policy
from ops.errors import Failure
from ops.paths import INVENTORIES, PLAYBOOKS, ROLES, ROOT
from tests.structure import rules
from tests.support.variables import Inventory

ROLE_PATHS = sorted(path.parent.parent for path in ROLES.glob("*/tasks/main.yml"))
PLAYBOOK_PATHS = sorted(PLAYBOOKS.glob("*.yml"))
MODULE_PATHS = sorted((ROOT / "plugins" / "modules").glob("*.py"))
OWN_MODULES = frozenset(path.stem for path in MODULE_PATHS)
GROUPS = frozenset(yaml.safe_load((INVENTORIES / "schema.yml").read_text())["groups"])
ENVIRONMENTS = sorted(path.parent.name for path in INVENTORIES.glob("*/hosts.yml"))
# Each costs a look at check mode and idempotence by hand. Raise it only for what no module can do.
COMMAND_BUDGET = 30
TASK_BUDGET = 100

ROLE_RULES: dict[str, rules.RoleRule] = {
    "shape": rules.role_shape,
    "tests": rules.role_tests,
    "variables": rules.role_variables,
    "modules": lambda role: rules.role_modules(role, OWN_MODULES),
    "templates": rules.templates,
}


def test_there_is_something_to_check() -> None:
    assert len(ROLE_PATHS) >= 10
    assert {path.name for path in ROLE_PATHS} == {path.name for path in ROLES.iterdir() if (path / "meta").is_dir()}
    assert PLAYBOOK_PATHS
    assert {"lab", "staging", "prod"} <= set(ENVIRONMENTS)


@pytest.mark.parametrize("rule", ROLE_RULES)
@pytest.mark.parametrize("role", ROLE_PATHS, ids=lambda path: path.name)
def test_role(role: Path, rule: str) -> None:
    found = list(ROLE_RULES[rule](role))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", PLAYBOOK_PATHS, ids=lambda path: path.name)
def test_playbook(path: Path) -> None:
    found = list(rules.playbook(path, GROUPS))
    assert not found, "\n".join(found)


def test_commands_on_this_machine() -> None:
    paths = [
        *ROOT.glob("playbooks/*.yml"),
        *ROOT.glob("roles/*/molecule/*/*.yml"),
        *ROOT.glob(".config/molecule/*.yml"),
    ]
    plays = [path for path in paths if "hosts: localhost" in path.read_text()]
    assert len(plays) > 3
    assert [found for path in plays for found in rules.local_commands(path)] == []


@pytest.mark.parametrize("path", MODULE_PATHS, ids=lambda path: path.stem)
def test_module(path: Path) -> None:
    action = ROOT / "plugins" / "action" / path.name
    found = list(rules.module_documentation(path.read_text(), whole=not action.exists()))
    assert not found, "\n".join(found)


def test_services_of_several_hosts_are_restarted_one_after_the_other() -> None:
    found = list(rules.restarts(PLAYBOOKS / "site.yml", ROLES))
    assert not found, "\n".join(found)


def test_there_are_few_playbooks_in_one_folder() -> None:
    assert len(PLAYBOOK_PATHS) <= 15
    assert [path for path in PLAYBOOKS.iterdir() if path.is_dir()] == []


def test_commands_stay_within_their_budget() -> None:
    counts = {role.name: rules.commands(role) for role in ROLE_PATHS}
    assert sum(counts.values()) <= COMMAND_BUDGET, counts


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_host_has_more_than_100_tasks(environment: str) -> None:
    inventory = Inventory(INVENTORIES / environment / "hosts.yml", [])
    groups = {host: frozenset(inventory.variables(host)["group_names"]) for host in inventory.hosts}
    counts = rules.tasks_per_host(PLAYBOOKS / "site.yml", ROLES, groups)
    assert min(counts.values()) > 0
    assert max(counts.values()) <= TASK_BUDGET, counts


def test_generated_documentation_is_up_to_date() -> None:
    pages = docs.pages()
    generated = {ROOT / "docs" / "deployments.md", ROOT / "docs" / "layout.md", policy.COPY}
    assert pages.keys() == {*(role / "README.md" for role in ROLE_PATHS), *generated}
    assert [path for path, text in pages.items() if path.read_text() != text] == []


def test_decision_records() -> None:
    assert list(rules.decisions(ROOT / "docs" / "decisions")) == []


# --- Each rule rejects something ------------------------------------------------------------------------------------


@pytest.fixture
def role(tmp_path: Path) -> Path:
    """A copy of a role that keeps all rules."""
    copy = tmp_path / "base"
    shutil.copytree(ROLES / "base", copy)
    return copy


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Rewrite a file; the change must change something."""
    before = path.read_text() if path.is_file() else ""
    after = change(before)
    assert after != before
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(after)


def append(text: str) -> Callable[[str], str]:
    """A change that adds lines at the end."""
    return lambda before: before + text


def replace(old: str, new: str) -> Callable[[str], str]:
    """A change that replaces a text."""
    return lambda before: before.replace(old, new)


BAD_ROLES = [
    ("shape", "is missing", "README.md", None),
    ("shape", "has no place", "library/thing.py", append("x = 1\n")),
    ("shape", "is empty", "vars/main.yml", lambda _: "# nothing\n"),
    ("shape", "table of contents", "tasks/main.yml", append("\n- name: Ping\n  ansible.builtin.ping:\n")),
    ("tests", "has no test", "molecule/default/tests", None),
    ("tests", "asserts nothing", "molecule/default/tests/test_more.py", append("def test_it():\n    pass\n")),
    ("tests", "does not apply", "molecule/default/converge.yml", replace("- base", "- pki")),
    ("variables", "must be called base_", "defaults/main.yml", append("proxy: none\n")),
    ("variables", "no meaning", "defaults/main.yml", append("base_proxy: none\n")),
    ("variables", "no default", "defaults/main.yml", replace("base_sysctl: {}\n", "")),
    ("variables", "no description", "meta/argument_specs.yml", replace("description: NTP pools", "choices: [[a]]")),
    ("variables", "internal variable", "vars/main.yml", append("helper: 1\n")),
    (
        "variables",
        "internal variable",
        "tasks/sources.yml",
        replace("register: __base_apt_sources", "register: sources"),
    ),
    ("modules", "neither", "tasks/install.yml", replace("ansible.builtin.apt:", "apt:")),
    ("modules", "changed_when", "handlers/main.yml", replace("  changed_when: true\n", "")),
    ("modules", "no name", "tasks/install.yml", append("\n- ansible.builtin.ping:\n")),
    ("modules", "ignore_errors", "handlers/main.yml", append("  ignore_errors: true\n")),
    ("templates", "timeout", "templates/x.cfg.j2", append("connect_timeout = 10\n")),
    ("templates", "timeout", "templates/x.cfg.j2", append("  timeout client 30s\n")),
]


@pytest.mark.parametrize(("rule", "says", "where", "change"), BAD_ROLES)
def test_a_bad_role_is_rejected(
    role: Path, rule: str, says: str, where: str, change: Callable[[str], str] | None
) -> None:
    assert list(ROLE_RULES[rule](role)) == []
    if change is not None:
        edit(role / where, change)
    elif (role / where).is_dir():
        shutil.rmtree(role / where)
    else:
        (role / where).unlink()
    assert any(says in line for line in ROLE_RULES[rule](role))


GOOD_PLAYBOOK = """\
# Task: x. Touches: web hosts. Downtime: none. Undo: nothing.
- name: Do it
  hosts: web
  gather_facts: false
  any_errors_fatal: true
  max_fail_percentage: 0
  serial: [1, "100%"]
"""


@pytest.mark.parametrize(
    ("says", "line"),
    [
        ("Downtime", " Downtime: none."),
        ("any_errors_fatal", "  any_errors_fatal: true\n"),
        ("max_fail_percentage", "  max_fail_percentage: 0\n"),
        ("gather_facts", "  gather_facts: false\n"),
        ("serial", '  serial: [1, "100%"]\n'),
    ],
)
def test_a_bad_playbook_is_rejected(tmp_path: Path, says: str, line: str) -> None:
    path = tmp_path / "play.yml"
    path.write_text(GOOD_PLAYBOOK)
    assert list(rules.playbook(path, GROUPS)) == []
    path.write_text(GOOD_PLAYBOOK.replace(line, ""))
    assert any(says in found for found in rules.playbook(path, GROUPS))


@pytest.mark.parametrize("command", ["ansible.builtin.command: {cmd: x y}", "ansible.builtin.shell: x y"])
def test_a_command_on_this_machine_that_is_not_a_list_is_rejected(tmp_path: Path, command: str) -> None:
    path = tmp_path / "play.yml"
    play = "- hosts: localhost\n  tasks:\n    - name: Say\n      "
    path.write_text(f"{play}{command}\n")
    assert len(list(rules.local_commands(path))) == 1
    path.write_text(f"{play}ansible.builtin.command: {{argv: [x, y]}}\n")
    assert list(rules.local_commands(path)) == []


def test_a_playbook_for_an_unknown_group_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "play.yml"
    path.write_text(GOOD_PLAYBOOK.replace("hosts: web", "hosts: webs"))
    assert any("webs" in found for found in rules.playbook(path, GROUPS))


IN_TURN = """\
- name: Restart it
  unit_in_turn:
    units: [x.service]
    state: restarted
    urls: []
  throttle: 1
"""
PLAIN = """\
- name: Restart it
  ansible.builtin.systemd_service:
    name: x.service
    state: restarted
"""
STEPS = """\
- name: Restart it
  ansible.builtin.include_tasks: restart.yml
"""


@pytest.mark.parametrize(
    ("hosts", "serial", "handler", "says"),
    [
        ("database", "", IN_TURN, ""),
        ("database", "", IN_TURN.replace("  throttle: 1\n", ""), "throttle must be 1"),
        ("database", "", PLAIN, "throttle must be 1"),
        ("database", "", PLAIN + "  throttle: 1\n", "use unit_in_turn"),
        ("database", "", STEPS, "serial: 1"),
        ("loadbalancers", '  serial: [1, "100%"]\n', PLAIN.replace("restarted", "reloaded"), "throttle must be 1"),
        ("loadbalancers", '  serial: [1, "100%"]\n', STEPS, "serial: 1"),
        ("loadbalancers", "  serial: 1\n", STEPS, ""),
        ("all", '  serial: [1, "100%"]\n', PLAIN, "throttle must be 1"),
        ("all", '  serial: [1, "100%"]\n', PLAIN.replace("x.service", "ssh.service"), ""),
        ("all", "", PLAIN + "  throttle: 1\n", ""),
    ],
)
def test_a_restart_on_all_hosts_at_once_is_rejected(
    tmp_path: Path, hosts: str, serial: str, handler: str, says: str
) -> None:
    site, handlers = tmp_path / "site.yml", tmp_path / "x" / "handlers" / "main.yml"
    handlers.parent.mkdir(parents=True)
    handlers.write_text(handler)
    site.write_text(f"- hosts: {hosts}\n{serial}  roles: [x]\n")
    found = list(rules.restarts(site, tmp_path))
    assert [says in line for line in found] == ([True] if says else [])


MODULE = '''
DOCUMENTATION = """
options:
  path:
    description: Where.
"""
EXAMPLES = RETURN = ""
AnsibleModule(argument_spec={"path": {"required": True}})
'''


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("Where.", "Where: there.", "DOCUMENTATION is no YAML"),
        ("path:", "place:", "differ in path, place"),
        ('{"path"', '{"to": {}, "path"', "differ in to"),
    ],
)
def test_a_badly_documented_module_is_rejected(old: str, new: str, says: str) -> None:
    assert not list(rules.module_documentation(MODULE))
    assert says in "\n".join(rules.module_documentation(MODULE.replace(old, new)))


def test_commands_and_tasks_are_counted(role: Path, tmp_path: Path) -> None:
    commands = rules.commands(role)
    edit(
        role / "tasks" / "service.yml",
        append("\n- name: Run\n  ansible.builtin.command: {cmd: 'true'}\n  changed_when: false\n"),
    )
    assert rules.commands(role) == commands + 1
    site = tmp_path / "site.yml"
    site.write_text("- hosts: web\n  roles: [base]\n")
    counts = rules.tasks_per_host(site, tmp_path, {"web1": frozenset({"web"}), "lb1": frozenset()})
    assert counts["lb1"] == 0
    before = counts["web1"]
    assert before > 10
    edit(role / "tasks" / "service.yml", append("\n- name: Ping\n  ansible.builtin.ping:\n"))
    assert rules.tasks_per_host(site, tmp_path, {"web1": frozenset({"web"})})["web1"] == before + 1


def test_stale_documentation_is_noticed(role: Path) -> None:
    readme = role / "README.md"
    assert docs.with_part(readme, "variables", docs.variables_table(role)) == readme.read_text()
    edit(role / "meta" / "argument_specs.yml", replace("NTP pools", "Pools of time servers"))
    assert docs.with_part(readme, "variables", docs.variables_table(role)) != readme.read_text()
    edit(readme, replace("<!-- variables: start -->", ""))
    with pytest.raises(Failure, match="no place"):
        docs.with_part(readme, "variables", "")


def test_an_unfinished_decision_record_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("| record |\n")
    (tmp_path / "swift.md").write_text("# Swift\n\nBecause.\n")
    found = list(rules.decisions(tmp_path))
    assert len(found) == 2
    assert "decide again" in found[0]
    assert "does not name it" in found[1]
