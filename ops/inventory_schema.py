"""Validates inventories: rejects unknown keys and wrong types, and names the file and the key.

Three places define what an inventory may contain: `inventories/schema.yml` (connection and site variables, groups),
`inventories/policy.yml` with `inventories/topology.yml` (what all environments share) and each role's
`meta/argument_specs.yml`. Each variable is defined in one of them only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from ops.errors import Exit, Failure
from ops.inventories import VAULT_FILE
from ops.paths import CACHE, INVENTORIES, ROLES
from ops.secrets import SECRETS

# Types of argument_specs (Ansible's) as JSON schema types.
_TYPES: dict[str, str | list[str]] = {
    "str": ["string", "number", "boolean"],
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
    "path": "string",
    "raw": ["string", "number", "boolean", "array", "object", "null"],
}

# Files that all environments share by a symbolic link in group_vars/all.
_SHARED = ("policy.yml", "topology.yml")


def validate(inventory: Path) -> None:
    """Compare all files of an inventory with what they may contain.

    Raises Failure that lists every problem as `file: key: what is wrong`.
    """
    digest = hashlib.sha256()
    for path in [*_files(inventory), *_definition_files()]:
        digest.update(f"{path}\0".encode())
        digest.update(path.read_bytes())
    passed = CACHE / "inventories" / digest.hexdigest()
    if passed.is_file():
        return
    found = list(problems(inventory))
    if found:
        raise Failure(
            f"The inventory {inventory} is not valid:\n" + "\n".join(f"  {line}" for line in found),
            "Known keys: inventories/schema.yml, inventories/policy.yml and roles/*/meta/argument_specs.yml.",
            Exit.BAD_CONFIGURATION,
        )
    passed.parent.mkdir(parents=True, exist_ok=True)
    passed.touch()


def _files(inventory: Path) -> list[Path]:
    """All files but the vault, which not everybody may read: ops/secrets.py checks its names when it opens it."""
    found = sorted(path for path in inventory.rglob("*.yml") if path.is_file())
    return [path for path in found if path != inventory / VAULT_FILE]


def problems(inventory: Path) -> Iterator[str]:
    """Yield each problem of an inventory as one line: file, key, reason."""
    definitions = _load(INVENTORIES / "schema.yml")
    known = known_variables()
    hosts_file = inventory / "hosts.yml"
    try:
        tree = _load(hosts_file)
    except Failure as failure:
        yield f"{hosts_file}: {failure.message}"
        return
    groups: dict[str, set[str]] = {}
    yield from _tree_problems(hosts_file, tree, definitions, known, groups)
    yield from _size_problems(hosts_file, definitions, groups)
    for path in _files(inventory):
        if path == hosts_file:
            continue
        place = path.relative_to(inventory).parts
        if place[0] not in {"group_vars", "host_vars"} or len(place) != 3:
            yield f"{path}: an inventory holds hosts.yml, group_vars/<group>/*.yml and host_vars/<host>/*.yml"
            continue
        owners = set(definitions["groups"]) | {"all"} if place[0] == "group_vars" else groups.get("all", set())
        if place[1] not in owners:
            yield f"{path}: there is no group or host '{place[1]}' (known: {', '.join(sorted(owners))})"
        yield from _file_problems(path, known)


def known_variables() -> dict[str, dict[str, Any]]:
    """All variables that an inventory may set, each with its JSON schema."""
    definitions = _load(INVENTORIES / "schema.yml")
    known: dict[str, dict[str, Any]] = {
        name: {**schema, "$defs": definitions["$defs"]} for name, schema in definitions["variables"].items()
    }
    for shared in _SHARED:
        for name in _load(INVENTORIES / shared):
            known[name] = {"type": ["number", "string"]}
    for name in SECRETS:
        known[name] = {}
    for path in _argument_specs():
        for entry in _load(path).get("argument_specs", {}).values():
            for name, option in (entry.get("options") or {}).items():
                known[name] = _option_schema(option)
    return known


def _option_schema(option: Mapping[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _TYPES[option.get("type", "str")]}
    if "choices" in option:
        schema["enum"] = list(option["choices"])
    if option.get("type") == "list" and "elements" in option:
        schema["items"] = _option_schema({**option, "type": option["elements"], "elements": "raw"})
        schema["items"].pop("enum", None)
    if option.get("type") == "dict" and option.get("options"):
        schema.update(_object_schema(option["options"]))
    return schema


def _object_schema(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "properties": {name: _option_schema(option) for name, option in options.items()},
        "required": [name for name, option in options.items() if option.get("required")],
        "additionalProperties": False,
    }


def _tree_problems(
    path: Path,
    tree: Mapping[str, Any],
    definitions: Mapping[str, Any],
    known: Mapping[str, Any],
    groups: dict[str, set[str]],
) -> Iterator[str]:
    if set(tree) != {"all"} or not isinstance(tree["all"], dict):
        yield f"{path}: the one top-level key is 'all'"
        return
    allowed = set(definitions["groups"])

    def walk(group: str, entry: Any) -> Iterator[str]:
        entry = entry or {}
        if not isinstance(entry, dict):
            yield f"{path}: {group}: must be a mapping with hosts, children"
            return
        for key in set(entry) - {"hosts", "children"}:
            yield f"{path}: {group}.{key}: unknown key; a group holds hosts and children, values stand in group_vars"
        members = groups.setdefault(group, set())
        for host, variables in (entry.get("hosts") or {}).items():
            members.add(host)
            groups.setdefault("all", set()).add(host)
            for name, value in (variables or {}).items():
                yield from _value_problems(path, f"{host}.{name}", name, value, known)
        for child, below in (entry.get("children") or {}).items():
            if child not in allowed:
                yield f"{path}: {group}.children.{child}: unknown group (known: {', '.join(sorted(allowed))})"
            yield from walk(child, below)
            members |= groups.get(child, set())

    yield from walk("all", tree["all"])
    for host in sorted(groups.get("all", set())):
        if "ansible_host" not in ((tree["all"].get("hosts") or {}).get(host) or {}):
            yield f"{path}: all.hosts.{host}: every host stands under all.hosts with its ansible_host"


def _size_problems(path: Path, definitions: Mapping[str, Any], groups: Mapping[str, set[str]]) -> Iterator[str]:
    for group, needed in definitions["groups"].items():
        if needed and not groups.get(group):
            yield f"{path}: all.children.{group}: the group needs at least one host"
    for group in definitions["odd_groups"]:
        for centre in ("dc1", "dc2"):
            members = groups.get(group, set()) & groups.get(centre, set())
            if members and len(members) % 2 == 0:
                yield f"{path}: {group}: {len(members)} members in {centre}; a majority needs an odd number"
    for group, minimum in definitions["minimum_members"].items():
        for centre in ("dc1", "dc2"):
            members = groups.get(group, set()) & groups.get(centre, set())
            if 0 < len(members) < minimum:
                yield f"{path}: {group}: {len(members)} members in {centre}, needs at least {minimum}"


def _file_problems(path: Path, known: Mapping[str, Any]) -> Iterator[str]:
    if path.read_bytes().startswith(b"$ANSIBLE_VAULT"):
        return
    try:
        values = _load(path)
    except Failure as failure:
        yield f"{path}: {failure.message}"
        return
    for name, value in values.items():
        yield from _value_problems(path, name, name, value, known)


def _value_problems(path: Path, key: str, name: str, value: Any, known: Mapping[str, Any]) -> Iterator[str]:
    if name not in known:
        yield f"{path}: {key}: unknown variable"
        return
    if isinstance(value, str) and "{{" in value:
        return  # its type shows only when it is rendered; the role's argument_specs check it there
    for error in jsonschema.Draft202012Validator(known[name]).iter_errors(value):
        where = "".join(f".{part}" for part in error.absolute_path)
        yield f"{path}: {key}{where}: {error.message}"


def _argument_specs() -> list[Path]:
    return sorted(ROLES.glob("*/meta/argument_specs.yml"))


def _definition_files() -> list[Path]:
    return [INVENTORIES / "schema.yml", *(INVENTORIES / name for name in _SHARED), *_argument_specs(), Path(__file__)]


def _load(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise Failure(f"not YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise Failure("must be a mapping of names to values")
    return data
