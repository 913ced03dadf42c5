"""Every template renders for every host of every environment, and what it renders can be parsed.

Ansible's own engine renders, so an undefined variable fails here as it would on a host. The products' own checkers run
where the products are: on the hosts of each role's scenario.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleUndefinedVariable

from app.longhaul.settings import Settings
from ops import secrets
from ops.environment import Environment
from ops.paths import INVENTORIES, PLAYBOOKS, ROLES
from tests.support.variables import Inventory, Rendered, role_tasks

ENVIRONMENTS = sorted(path.parent.name for path in INVENTORIES.glob("*/hosts.yml"))
TEMPLATES = sorted(path for path in ROLES.glob("*/templates/**/*.j2"))
SAMPLES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "samples.yml").read_text())


@dataclass(frozen=True)
class Use:
    """A template task of a role in a play of site.yml."""

    role: str
    hosts: str
    neighbours: tuple[str, ...]
    task: Mapping[str, Any]

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The options of the template module."""
        found: Mapping[str, Any] = self.task["ansible.builtin.template"]
        return found


def uses() -> list[Use]:
    """Every template task that a run of site.yml or the installation of a release has."""
    found = []
    plays = [
        play for name in ("site", "release-install") for play in yaml.safe_load((PLAYBOOKS / f"{name}.yml").read_text())
    ]
    for play in plays:
        neighbours = tuple(play.get("roles", []))
        for role in neighbours:
            found += [
                Use(role, play["hosts"].partition(":")[0], neighbours, task)
                for task in role_tasks(ROLES / role)
                if "ansible.builtin.template" in task
            ]
    return found


@cache
def secret_values(environment: str) -> dict[str, Any]:
    """Secrets of an environment, made up: the real ones are not needed to render."""
    return secrets.generate(Environment.of_checkout(environment))


@cache
def inventory(environment: str, role: str, neighbours: tuple[str, ...]) -> Inventory:
    """The variables that a role has in a play: those of its neighbours too, as in Ansible."""
    overrides = {**secret_values(environment), **SAMPLES["all"], **SAMPLES.get(role, {})}
    paths = [ROLES / name for name in neighbours if name != role]
    return Inventory(INVENTORIES / environment / "hosts.yml", [*paths, ROLES / role], overrides)


def render(use: Use, environment: str, host: str) -> Iterator[tuple[Path, str, str]]:
    """Each file that the task writes on a host: template, destination, text."""
    known = inventory(environment, use.role, use.neighbours).variables(host)
    for variables in _per_item(use.task, known):
        arguments = known.with_variables(variables)
        source = ROLES / use.role / "templates" / arguments.render(use.arguments["src"])
        text = arguments.render_file(source)
        yield source, arguments.render(use.arguments["dest"]), text


def _per_item(task: Mapping[str, Any], known: Rendered) -> Iterator[dict[str, Any]]:
    own = dict(task.get("vars", {}))
    if "loop" not in task:
        yield own
        return
    name = task.get("loop_control", {}).get("loop_var", "item")
    for item in known.with_variables(own).render(task["loop"]):
        yield {**own, name: item}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("use", uses(), ids=lambda use: f"{use.role}-{use.task['name'].replace(' ', '_')}")
def test_a_template_renders_and_parses(use: Use, environment: str) -> None:
    hosts = inventory(environment, use.role, use.neighbours).group(use.hosts)
    assert hosts
    for host in hosts:
        for template, destination, text in render(use, environment, host):
            problem = parse(destination, text)
            assert not problem, f"{template} on {host} of {environment}: {problem}\n{text}"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: str(path.relative_to(ROLES)))
def test_a_template_is_used(template: Path) -> None:
    inclusion = re.compile(r"(?:include|import|from) ['\"](.+?)['\"]")
    included = {name for path in TEMPLATES for name in inclusion.findall(path.read_text())}
    rendered = {
        path
        for use in uses()
        if use.role == template.relative_to(ROLES).parts[0]
        for path, _, _ in render(use, "lab", inventory("lab", use.role, use.neighbours).group(use.hosts)[0])
    }
    assert template in rendered or template.name in included


def test_there_are_templates_and_environments() -> None:
    assert len(TEMPLATES) > 10
    assert {"lab", "staging", "prod"} <= set(ENVIRONMENTS)


# --- The application's settings ---------------------------------------------------------------------------------------

DEFAULT = Settings(database="", store="")
SETTINGS_FILES = {"web": "web.env.j2", "worker": "worker.env.j2"}


def settings_of_hosts(environment: str, changed: Mapping[str, Any] | None = None) -> Iterator[Mapping[str, str]]:
    """The variables in the settings file of each web host and worker, if the inventory said `changed` too."""
    overrides = {**secret_values(environment), **SAMPLES["all"], **(changed or {})}
    for role, template in SETTINGS_FILES.items():
        known = Inventory(INVENTORIES / environment / "hosts.yml", [ROLES / role], overrides)
        (group,) = {use.hosts for use in uses() if use.role == role}
        for host in known.group(group):
            text = known.variables(host).render_file(ROLES / role / "templates" / template)
            yield dict(re.findall(r'^(LONGHAUL_\w+)="?(.*?)"?$', text, re.MULTILINE))


def numbers(settings: Settings) -> dict[str, float]:
    """The settings that are numbers."""
    return {name: value for name, value in asdict(settings).items() if isinstance(value, int | float)}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_hosts_run_with_the_applications_defaults(environment: str) -> None:
    default = numbers(DEFAULT)
    given: set[str] = set()
    for variables in settings_of_hosts(environment):
        assert numbers(Settings.from_environment(variables)) == default
        given |= variables.keys()
    # Each can be changed for one environment: no number is left to the default.
    assert {f"LONGHAUL_{name.upper()}" for name in default} <= given


def test_an_environment_can_change_a_number_of_the_policy() -> None:
    changed = {"policy_piece_seconds": 7, "policy_job_stop_seconds": 8}
    found = [Settings.from_environment(variables) for variables in settings_of_hosts("lab", changed)]
    assert {settings.piece_seconds for settings in found} == {7, DEFAULT.piece_seconds}
    assert {settings.job_stop_seconds for settings in found} == {8, DEFAULT.job_stop_seconds}


# --- Parsing --------------------------------------------------------------------------------------------------------


def parse(destination: str, text: str) -> str:
    """What is wrong with a rendered file, going by its name and its first line; empty if nothing is."""
    suffix = Path(destination).suffix
    if re.search(r"\{\{|\{%", text):
        return "holds a template that was not rendered"
    for applies, parser in PARSERS:
        if applies(suffix, destination, text.partition("\n")[0]):
            try:
                return parser(text)
            except (ValueError, SyntaxError, yaml.YAMLError) as error:
                return str(error)
    return "" if text.strip() else "is empty"


def _unit(text: str) -> str:
    """systemd.syntax(7): sections, `Key=value`, comments and continued lines."""
    section = ""
    continued = False
    for number, line in enumerate(text.splitlines(), 1):
        if continued or not line.strip() or line.startswith(("#", ";")):
            pass
        elif match := re.fullmatch(r"\[([A-Z][A-Za-z0-9]*)\]", line):
            section = match[1]
        elif not section:
            return f"line {number} stands before the first section"
        elif not re.match(r"[A-Z][A-Za-z0-9]*\s*=", line):
            return f"line {number} is not Key=value"
        continued = line.endswith("\\") and not line.startswith(("#", ";"))
    return "" if section else "has no section"


def _keepalived(text: str) -> str:
    """keepalived.conf(5): balanced blocks; keepalived's own check refuses a source for unicast without a peer."""
    code = "\n".join(line.partition("#")[0] for line in text.splitlines())
    if code.count("{") != code.count("}"):
        return "has a block that is not closed"
    return "speaks unicast to nobody" if "unicast_src_ip" in code and "unicast_peer" not in code else ""


def _shell(text: str) -> str:
    interpreter = "bash" if "bash" in text.partition("\n")[0] else "sh"
    return subprocess.run([interpreter, "-n"], input=text, capture_output=True, text=True, check=False).stderr


def _quiet(parser: Callable[[str], Any]) -> Callable[[str], str]:
    def run(text: str) -> str:
        parser(text)
        return ""

    return run


Applies = Callable[[str, str, str], bool]
PARSERS: list[tuple[Applies, Callable[[str], str]]] = [
    (lambda suffix, _path, first: suffix == ".py" or "python" in first, _quiet(ast.parse)),
    (lambda _suffix, _path, first: first.startswith("#!") and first.endswith("sh"), _shell),
    (lambda suffix, _path, _first: suffix == ".json", _quiet(json.loads)),
    (lambda suffix, _path, _first: suffix in {".yml", ".yaml"}, _quiet(yaml.safe_load)),
    (lambda _suffix, path, _first: path.startswith("/etc/systemd/"), _unit),
    (lambda _suffix, path, _first: path.endswith("/keepalived.conf"), _keepalived),
]


# --- The checks reject something -------------------------------------------------------------------------------------


def test_an_undefined_variable_is_rejected(tmp_path: Path) -> None:
    known = inventory("lab", "base", ("base",)).variables("web1")
    template = tmp_path / "x.j2"
    template.write_text("{{ base_no_such_variable }}\n")
    with pytest.raises(AnsibleUndefinedVariable):
        known.render_file(template)
    template.write_text("{{ hostvars['web2'].base_no_such_variable }}\n")
    with pytest.raises(AnsibleUndefinedVariable):
        known.render_file(template)


@pytest.mark.parametrize(
    ("destination", "text", "says"),
    [
        ("/etc/x.py", "def f(:\n", "invalid syntax"),
        ("/usr/local/sbin/x", "#!/bin/sh\nif true; then\n", "nd of file"),
        ("/etc/x.json", "{", "Expecting"),
        ("/etc/x.yml", "a: [", "while parsing"),
        ("/etc/systemd/system/x.service", "Restart=always\n", "before the first section"),
        ("/etc/systemd/system/x.service", "[Service]\nRestart always\n", "not Key=value"),
        ("/etc/keepalived/keepalived.conf", "vrrp_instance public {\n", "not closed"),
        ("/etc/keepalived/keepalived.conf", "vrrp_instance public {\nunicast_src_ip 192.0.2.1\n}\n", "to nobody"),
        ("/etc/x.conf", "", "is empty"),
        ("/etc/x.conf", "a = {{ b }}\n", "not rendered"),
    ],
)
def test_a_bad_file_is_rejected(destination: str, text: str, says: str) -> None:
    assert says in parse(destination, text)
