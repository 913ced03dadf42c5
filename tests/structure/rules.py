"""The rules of roles and playbooks. Each takes what it checks and yields one line per violation.

test_rules.py holds them against the repository, and each against a known-bad case that it must reject.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import yaml
from ansible.playbook.block import Block
from ansible.playbook.handler import Handler

from tests.support.variables import role_tasks

# Keys of a task that are not the module's name.
TASK_KEYWORDS = frozenset([*Handler.fattributes, *Block.fattributes])
REQUIRED_FILES = (
    "README.md",
    "meta/argument_specs.yml",
    "meta/main.yml",
    "molecule/default/converge.yml",
    "molecule/default/molecule.yml",
    "tasks/main.yml",
)
ALLOWED = re.compile(
    r"README\.md|(defaults|handlers|vars|tasks|meta)/[a-z_]+\.yml|templates/.+\.j2|files/.+"
    r"|molecule/default/((molecule|converge|prepare)\.yml|tests/(test_\w+|conftest)\.py)"
)
# Plays on these groups meet users: they go host by host, a canary first.
SERVING_GROUPS = frozenset({"loadbalancers", "web", "workers"})
# Hosts of these groups do the same work and must not leave it all at once. (Workers too, but a job can wait.)
REDUNDANT_GROUPS = frozenset({"all", "database", "loadbalancers", "storage", "web"})
# Users do not notice when these are away for a moment, on however many hosts.
UNNOTICED = frozenset({"ssh.service", "systemd-journald.service", "systemd-sysctl.service"})
RESTARTS = frozenset({"restarted", "reloaded", "stopped"})
INCLUDES = frozenset({"ansible.builtin.include_tasks", "ansible.builtin.import_tasks"})
HEADER = ("Task:", "Touches:", "Downtime:", "Undo:")
LITERAL_TIMEOUT = re.compile(r"timeout[\w-]*['\"]?(\s+[a-z][\w-]*)?\s*[:=\s]\s*['\"]?\d", re.IGNORECASE)


def role_shape(role: Path) -> Iterator[str]:
    """One shape: what must be there is there, nothing else is, nothing is empty, main.yml is a table of contents."""
    for name in REQUIRED_FILES:
        if not (role / name).is_file():
            yield f"{role.name}: {name} is missing"
    for path in sorted(path for path in role.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        relative = path.relative_to(role).as_posix()
        if not ALLOWED.fullmatch(relative):
            yield f"{role.name}: {relative} has no place in a role"
        elif path.suffix == ".yml" and yaml.safe_load(path.read_text()) is None:
            yield f"{role.name}: {relative} is empty"
    main = role / "tasks" / "main.yml"
    for task in yaml.safe_load(main.read_text()) if main.is_file() else []:
        if module(task) not in {"ansible.builtin.import_tasks", "ansible.builtin.include_tasks"}:
            yield f"{role.name}: tasks/main.yml is a table of contents, not '{task.get('name')}'"


def role_tests(role: Path) -> Iterator[str]:
    """A scenario without a test would pass: molecule only warns."""
    found = False
    for path in sorted(role.glob("molecule/default/tests/test_*.py")):
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        # A helper that asserts fails the test that calls it.
        helpers = {node.name for node in functions if _can_fail(node, frozenset())}
        for node in functions:
            if node.name.startswith("test_"):
                found = True
                if not _can_fail(node, helpers):
                    yield f"{role.name}: {node.name} asserts nothing"
    if not found:
        yield f"{role.name}: the scenario has no test"
    converge = role / "molecule" / "default" / "converge.yml"
    plays = yaml.safe_load(converge.read_text()) if converge.is_file() else []
    if not any(role.name in _role_names(play) for play in plays):
        yield f"{role.name}: converge.yml does not apply the role"


def _can_fail(function: ast.FunctionDef, helpers: Set[str]) -> bool:
    """Whether a function asserts, expects an error, runs a command that must succeed, or calls what does."""
    calls = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
    return (
        any(isinstance(node, ast.Assert) for node in ast.walk(function))
        or bool(calls & {"pytest.raises", *helpers})
        or any(call.endswith(".check_output") for call in calls)
    )


def role_variables(role: Path) -> Iterator[str]:
    """Public variables are `role_x`, with meaning and type in argument_specs; internal ones are `__role_x`."""
    options = _options(role)
    defaults = _yaml(role / "defaults" / "main.yml") or {}
    for name in sorted(set(options) | set(defaults)):
        if not name.startswith(f"{role.name}_"):
            yield f"{role.name}: the variable {name} must be called {role.name}_..."
    for name in sorted(set(defaults) - set(options)):
        yield f"{role.name}: {name} has a default and no meaning in argument_specs"
    for name, option in options.items():
        if not option.get("description"):
            yield f"{role.name}: {name} has no description"
        if name not in defaults and not option.get("required"):
            yield f"{role.name}: {name} has no default and is not required"
    internal = list(_yaml(role / "vars" / "main.yml") or {})
    for task in role_tasks(role):
        internal += [task["register"]] if "register" in task else []
        internal += [name for name in task.get("ansible.builtin.set_fact", {}) if name != "cacheable"]
    for name in internal:
        if not name.startswith(f"__{role.name}_"):
            yield f"{role.name}: the internal variable {name} must be called __{role.name}_..."


def role_modules(role: Path, own: frozenset[str]) -> Iterator[str]:
    """Modules by their full names, or our own; a command says when it changes something; nothing is ignored."""
    for task in role_tasks(role):
        name = module(task)
        where = f"{role.name}: {task.get('name', name)}"
        if "name" not in task:
            yield f"{role.name}: a task with {name} has no name"
        if "block" not in task and not name.startswith("ansible.builtin.") and name not in own:
            yield f"{where}: '{name}' is neither ansible.builtin.* nor in plugins/modules"
        if is_command(task) and "changed_when" not in task and "creates" not in (task[name] or {}):
            yield f"{where}: a command must say changed_when (or creates)"
        if "ignore_errors" in task:
            yield f"{where}: ignore_errors hides errors; use failed_when"


def commands(role: Path) -> int:
    """How many tasks of a role run a command or a shell instead of a module."""
    return sum(is_command(task) for task in role_tasks(role))


def is_command(task: Mapping[str, Any]) -> bool:
    """Whether a task runs a command or a shell."""
    return module(task) in {"ansible.builtin.command", "ansible.builtin.shell", "ansible.builtin.raw"}


def templates(role: Path) -> Iterator[str]:
    """No timeout is typed in a template: it comes from a variable of the policy."""
    for path in sorted(role.glob("templates/**/*.j2")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if LITERAL_TIMEOUT.search(line):
                yield f"{role.name}: {path.name}:{number}: a timeout is typed: {line.strip()}"


def module_documentation(text: str, *, whole: bool = True) -> Iterator[str]:
    """What a module says of itself can be read (Ansible only warns), and names the options that its code takes.

    Not of a module that is not `whole`, because an action plugin takes a part of them.
    """
    tree = ast.parse(text)
    said: dict[str, Any] = {}
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.targets[0], ast.Name)
        ):
            said[node.targets[0].id] = node.value.value
    for name in ("DOCUMENTATION", "EXAMPLES", "RETURN"):
        try:
            said[name] = yaml.safe_load(said.get(name, ""))
        except yaml.YAMLError as error:
            yield f"{name} is no YAML: {' '.join(str(error).split())}"
            said[name] = {"options": {}}
    taken = {
        key.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for word in call.keywords
        if word.arg == "argument_spec" and isinstance(word.value, ast.Dict)
        for key in word.value.keys
        if isinstance(key, ast.Constant)
    }
    if whole and (differ := taken ^ set((said["DOCUMENTATION"] or {}).get("options", {}))):
        yield f"DOCUMENTATION and argument_spec differ in {', '.join(sorted(map(str, differ)))}"


def playbook(path: Path, own_groups: frozenset[str]) -> Iterator[str]:
    """Every play says what happens on errors, whether it gathers facts, and goes host by host where users are."""
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    for entry in HEADER:
        if entry not in header:
            yield f"{path.name}: the comment at its head does not say '{entry}'"
    plays = yaml.safe_load(path.read_text())
    for play in plays:
        where = f"{path.name}: {play.get('name', 'a play without a name')}"
        if "ansible.builtin.import_playbook" in play:
            continue
        if play.get("any_errors_fatal") is not True:
            yield f"{where}: any_errors_fatal must be true"
        if play.get("max_fail_percentage") != 0:
            yield f"{where}: max_fail_percentage must be 0"
        if "gather_facts" not in play:
            yield f"{where}: gather_facts must be explicit"
        patterns = [part for part in re.split(r"[:,]", str(play.get("hosts", ""))) if not part.startswith("!")]
        touched = {re.sub(r"^&|\[.*\]$", "", part) for part in patterns}
        several = any("[" not in part for part in patterns)
        serial = play.get("serial")
        if touched & SERVING_GROUPS and several and serial != 1 and (not isinstance(serial, list) or serial[0] != 1):
            yield f"{where}: touches hosts that serve users; serial must begin with 1"
        unknown = touched - own_groups - {"all", "localhost"}
        if unknown:
            yield f"{where}: unknown group {', '.join(sorted(unknown))}"


def local_commands(path: Path) -> Iterator[str]:
    """A command on the machine that runs Ansible is a list: the checkout's path may hold blanks and quotes."""
    for play in yaml.safe_load(path.read_text()) or []:
        for task in play.get("tasks", []) if play.get("hosts") == "localhost" else []:
            if is_command(task) and "argv" not in (task[module(task)] or {}):
                yield f"{path.name}: '{task.get('name')}' must give its command as argv"


def restarts(site: Path, roles: Path) -> Iterator[str]:
    """What restarts or reloads a service of several hosts does so on one after the other, and looks in between.

    Either the whole play goes host by host, or the handler is throttled. A throttled handler does not stop when it
    fails on a host, so on the hosts of the data tier it must be the module that asks the others first.
    """
    for play in yaml.safe_load(site.read_text()):
        if play.get("hosts") not in REDUNDANT_GROUPS or play.get("serial") == 1:
            continue
        for name in _role_names(play):
            for handler in _yaml(roles / name / "handlers" / "main.yml") or []:
                where = f"{site.name}: {name}: {handler['name']}"
                called = module(handler)
                arguments = handler[called] if isinstance(handler[called], dict) else {}
                if called in INCLUDES:
                    yield f"{where}: each step would go on all hosts together; the play must have serial: 1"
                elif arguments.get("state") not in RESTARTS or arguments.get("name") in UNNOTICED:
                    continue
                elif handler.get("throttle") != 1:
                    yield f"{where}: restarts or reloads on all hosts at once; throttle must be 1"
                elif play["hosts"] != "all" and called != "unit_in_turn":
                    yield f"{where}: does not ask whether the other hosts serve; use unit_in_turn"


def decisions(folder: Path) -> Iterator[str]:
    """Each record says what would make us decide again, and the table of records has it."""
    table = (folder / "README.md").read_text()
    for path in sorted(folder.glob("*.md")):
        if path.name == "README.md":
            continue
        if "\n**Again if** " not in path.read_text():
            yield f"{path.name}: does not say what would make us decide again (**Again if** ...)"
        if f"]({path.name})" not in table:
            yield f"{path.name}: README.md does not name it"


def tasks_per_host(site: Path, roles: Path, groups: Mapping[str, frozenset[str]]) -> dict[str, int]:
    """How many tasks a whole run of a playbook has on each host, as if every condition held."""
    counts: dict[str, int] = dict.fromkeys(groups, 0)
    for play in yaml.safe_load(site.read_text()):
        tasks = len(play.get("tasks", [])) + sum(_task_count(roles / name) for name in _role_names(play))
        for host, member_of in groups.items():
            if play["hosts"] == "all" or play["hosts"] in member_of:
                counts[host] += tasks
    return counts


def _task_count(role: Path) -> int:
    """Tasks that a role has when it is called by its name: without its handlers, and without files that only other
    callers name (tasks_from). A block or an import is not a task itself.
    """
    structure = {"ansible.builtin.import_tasks", "ansible.builtin.meta", "block"}

    def count(tasks: list[Mapping[str, Any]]) -> int:
        found = 0
        for task in tasks:
            name = module(task)
            found += name not in structure
            for section in ("block", "rescue", "always"):
                found += count(task.get(section) or [])
            if name in {"ansible.builtin.import_tasks", "ansible.builtin.include_tasks"}:
                found += count(_yaml(role / "tasks" / str(task[name]).rpartition("/")[2]) or [])
        return found

    return count(_yaml(role / "tasks" / "main.yml") or [])


def module(task: Mapping[str, Any]) -> str:
    """The module that a task calls; `block` for a block."""
    if "block" in task:
        return "block"
    names = [key for key in task if key not in TASK_KEYWORDS and not key.startswith("with_")]
    return names[0] if names else ""


def _options(role: Path) -> dict[str, Any]:
    specs = _yaml(role / "meta" / "argument_specs.yml") or {}
    return specs.get("argument_specs", {}).get("main", {}).get("options") or {}


def _role_names(play: Mapping[str, Any]) -> list[str]:
    return [entry if isinstance(entry, str) else entry["role"] for entry in play.get("roles", [])]


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.is_file() else None


RoleRule = Callable[[Path], Iterator[str]]


# What Debian's Python has besides the standard library, where a program says so.
DEBIAN_PYTHON = frozenset({"apt_pkg"})


def host_program(path: Path) -> Iterator[str]:
    """A program for hosts runs with Debian's Python alone, and says what it takes and prints."""
    tree = ast.parse(path.read_text())
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    if others := sorted(imported - sys.stdlib_module_names - DEBIAN_PYTHON):
        yield f"{path.name} imports {', '.join(others)}, which a host does not have"
    said = ast.get_docstring(tree) or ""
    for word in ("Takes ", "Prints "):
        if word not in said:
            yield f"{path.name}: the docstring does not say what it {word.strip().lower()} ({word}...)"
    if 'if __name__ == "__main__":' not in path.read_text():
        yield f"{path.name} does nothing when it is run"


def task_module(path: Path) -> Iterator[str]:
    """A module of tasks holds tasks, and what they need to ask and to show: no class, no function for others."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            yield f"{path.name}: the class {node.name} belongs to the module that does the work"
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            decorators = {ast.unparse(one).partition("(")[0].rpartition(".")[2] for one in node.decorator_list}
            if not decorators & {"task", "lab_task"}:
                yield f"{path.name}: {node.name} is not a task; it belongs to the module that does the work"


def same_names(modules: Mapping[str, str]) -> Iterator[str]:
    """One word, one meaning: no two modules, and no two classes, of the same name. `modules` is path -> text."""
    places: dict[str, list[str]] = {}
    for path, text in modules.items():
        places.setdefault(f"the module {Path(path).stem}", []).append(path)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(f"the class {node.name}", []).append(path)
    for name, paths in sorted(places.items()):
        if len(paths) > 1:
            yield f"{name} is in {' and in '.join(sorted(paths))}"
