"""The bill of materials of a release, as CycloneDX 1.6 JSON (https://cyclonedx.org/docs/1.6/json/).

It lists the Python packages whose wheels are in the release, and the npm packages that the frontend is bundled from. It
has no serial number and no time, so that the same release has the same bill.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ops.errors import Exit, Failure

NAME = "sbom.cdx.json"
APPLICATION = "longhaul"
_CLASSIFIER = "License :: OSI Approved :: "


def write(content: Path, version: str, package_lock: Path) -> None:
    """Write the bill of an unpacked release, whose `wheels` are there, and of the npm packages of `package_lock`."""
    wheels = [path for path in sorted((content / "wheels").glob("*.whl")) if not _is_ours(path)]
    found = [_of_wheel(path) for path in wheels] + _of_npm(json.loads(package_lock.read_text()))
    components = {component["purl"]: component for component in found}  # npm may install one twice
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "component": {"type": "application", "bom-ref": APPLICATION, "name": APPLICATION, "version": version},
        },
        "components": [components[purl] for purl in sorted(components)],
    }
    (content / NAME).write_text(json.dumps(bill, indent=2) + "\n")


def _is_ours(wheel: Path) -> bool:
    return wheel.name.startswith(f"{APPLICATION}-")


def _component(purl: str, name: str, version: str, algorithm: str, digest: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "hashes": [{"alg": algorithm, "content": digest}],
        "purl": purl,
    }


def _of_wheel(wheel: Path) -> dict[str, Any]:
    """A wheel as a component; its hash is that of the wheel."""
    with zipfile.ZipFile(wheel) as members:
        (name,) = (name for name in members.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
        metadata = HeaderParser().parsestr(members.read(name).decode())
    version = metadata["Version"]
    # The package URL specification lower-cases names of PyPI and writes "-" for "_".
    purl = f"pkg:pypi/{quote(metadata['Name'].lower().replace('_', '-'))}@{quote(version)}"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    component = _component(purl, metadata["Name"], version, "SHA-256", digest)
    return {**component, **_licenses(metadata)}


def _licenses(metadata: Message) -> dict[str, Any]:
    """What core metadata says about the licence: an SPDX expression (PEP 639), or a name in one of the older fields."""
    if expression := metadata["License-Expression"]:
        return {"licenses": [{"expression": expression}]}
    classifiers = metadata.get_all("Classifier") or []
    names = [value.removeprefix(_CLASSIFIER) for value in classifiers if value.startswith(_CLASSIFIER)]
    written = metadata["License"] or ""
    if not names and written and "\n" not in written:  # some write the whole text there
        names = [written]
    return {"licenses": [{"license": {"name": name}} for name in names]} if names else {}


def _of_npm(lock: dict[str, Any]) -> list[dict[str, Any]]:
    """The packages of a package-lock.json (version 3), without those that only the build needs."""
    if lock["lockfileVersion"] != 3:
        raise Failure(
            f"package-lock.json has version {lock['lockfileVersion']}; the bill of materials knows version 3.",
            "Write it again with the npm of requirements.txt.",
            Exit.BAD_INPUT,
        )
    found = []
    for path, entry in lock["packages"].items():
        if not path or entry.get("dev"):
            continue
        name = path.rpartition("node_modules/")[2]
        algorithm, _, encoded = entry["integrity"].partition("-")
        digest = base64.b64decode(encoded).hex()
        purl = f"pkg:npm/{quote(name)}@{quote(entry['version'])}"
        component = _component(purl, name, entry["version"], f"SHA-{algorithm.removeprefix('sha')}", digest)
        licence = {"licenses": [{"expression": entry["license"]}]} if "license" in entry else {}
        found.append({**component, **licence})
    return found
