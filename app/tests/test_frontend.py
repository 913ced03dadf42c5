"""The sources of the page's script: their types, and where their packages come from."""

from __future__ import annotations

import json

import pytest

from ops import frontend
from ops.errors import Failure
from ops.paths import FRONTEND


def test_types() -> None:
    frontend.check_types()


def test_the_type_check_finds_mistakes() -> None:
    wrong = FRONTEND / "src" / "wrong.test.ts"
    wrong.write_text('export const wrong: number = "text";\n')
    try:
        with pytest.raises(Failure, match="type errors"):
            frontend.check_types()
    finally:
        wrong.unlink()


def test_the_lock_names_packages_by_hash_and_no_other_registry() -> None:
    lock = json.loads((FRONTEND / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/"), name


def test_the_build_gives_what_the_pages_load() -> None:
    built = frontend.build()
    assert {"app.js", "style.css", "icon.svg"} <= {path.name for path in built.iterdir()}
