"""Shipments: the processors without the rest of the application, made from a commit and signed like a release.

`dist/processors-<version>.tar.zst` holds the scripts of `app/processors` and a manifest; its signature lies beside it.
The version names the newest commit that changed a script. The same commit gives the same bytes.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ops.artefact import archive, manifest
from ops.console import console
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.on_host.install_release import PROCESSORS, sha256_of
from ops.paths import DIST, ROOT
from ops.release import Release, signature, source, verify

SCRIPTS = "app/processors"


def build(environment: Environment, *, ref: str = "", dirty_allowed: bool = False, key: str = "") -> Release:
    """Make and sign the shipment that a branch, tag or commit gives (default: the work tree's commit; with
    `dirty_allowed`, which is for the lab, what the work tree has).

    Raises Failure if there is no such commit, if a script is not valid Python, if a file of that version has other
    content, or if the environment would not accept the signature.
    """
    inputs = (SCRIPTS,)
    chosen = (
        source.of_ref(ref, inputs=inputs) if ref else source.of_work_tree(dirty_allowed=dirty_allowed, inputs=inputs)
    )
    target = DIST / f"{PROCESSORS}{chosen.version}.tar.zst"
    with tempfile.TemporaryDirectory(prefix="longhaul-shipment-") as name:
        tree, content, made = Path(name) / "tree", Path(name) / "content", Path(name) / target.name
        chosen.export(tree)
        _copy(tree / SCRIPTS, content / "processors")
        manifest.write(content, version=f"{PROCESSORS}{chosen.version}", commit=chosen.commit)
        archive.pack(content, chosen.seconds, made)
        if target.is_file() and sha256_of(target) != sha256_of(made):
            raise Failure(
                f"{target} is not what its commit gives.",
                "If no host has it (./inv status), remove it and run this again; otherwise find out who built it.",
                Exit.BAD_INPUT,
            )
        signed = made.with_name(f"{made.name}.sig")
        with signature.signing_key(key, for_lab=dirty_allowed) as signing:
            signature.sign(made, signing, signed)
        DIST.mkdir(exist_ok=True)
        # The archive last: if it is there, the shipment is complete.
        for path in (signed, made):
            shutil.copyfile(path, DIST / f".{path.name}")
            (DIST / f".{path.name}").replace(DIST / path.name)
    built = Release(chosen.version, target, sha256_of(target))
    console.print(f"{target.relative_to(ROOT)}, signed by {verify(built, environment)}")
    return built


def _copy(scripts: Path, target: Path) -> None:
    """Copy the scripts. Raises Failure if one is not valid Python, or if there are none."""
    target.mkdir(parents=True)
    found = sorted(scripts.glob("*.py"))
    for path in found:
        try:
            compile(path.read_bytes(), path.name, "exec")
        except SyntaxError as error:
            raise Failure(
                f"{SCRIPTS}/{path.name} is not valid Python: {error}", "Correct it.", Exit.BAD_INPUT
            ) from None
        shutil.copyfile(path, target / path.name)
    if not found:
        raise Failure(f"There is no script in {SCRIPTS}.", code=Exit.BAD_INPUT)
