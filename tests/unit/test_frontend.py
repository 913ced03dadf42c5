"""What browsers load is what these sources give: neither a build that died nor one by hand is taken for theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops import frontend
from ops.errors import Failure


class Bundler:
    """Stands in for npm and the bundler: what was run, and whether the next run dies after it has written."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs, self.dies = folder, list[str](), False

    def run(self, command: list[str], _what: str, failure: str) -> None:
        """Bundle, or install packages."""
        self.runs.append("bundle" if "build.mjs" in command else "install")
        written = self.folder / "dist/app.js" if self.runs[-1] == "bundle" else self.folder / "node_modules/esbuild"
        written.parent.mkdir(exist_ok=True)
        written.write_text(f"of {(self.folder / 'src/main.ts').read_text()}")
        if self.dies:
            raise Failure(failure)


@pytest.fixture
def bundler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundler:
    """Sources in a folder of their own, built and installed once."""
    for name in ("package.json", "package-lock.json", "tsconfig.json", "build.mjs", "src/main.ts"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("A")
    monkeypatch.setattr(frontend, "FRONTEND", tmp_path)
    monkeypatch.setattr(frontend, "DIST", tmp_path / "dist")
    monkeypatch.setattr(frontend, "CACHE", tmp_path / "cache")
    made = Bundler(tmp_path)
    monkeypatch.setattr(frontend, "_run", made.run)
    frontend.build()
    assert made.runs == ["install", "bundle"]
    made.runs.clear()
    frontend.build()
    assert made.runs == [], "nothing has changed"
    return made


def test_a_bundle_of_a_build_that_died_is_not_taken_for_that_of_earlier_sources(bundler: Bundler) -> None:
    source = bundler.folder / "src/main.ts"
    source.write_text("B")
    bundler.dies = True
    with pytest.raises(Failure):
        frontend.build()
    source.write_text("A")
    bundler.dies = False
    frontend.build()
    assert (bundler.folder / "dist/app.js").read_text() == "of A"
    assert bundler.runs == ["bundle", "bundle"]


@pytest.mark.parametrize("name", ["dist/app.js", "dist/more.js"])
def test_a_bundle_that_somebody_else_made_is_made_again(bundler: Bundler, name: str) -> None:
    (bundler.folder / name).write_text("of a build by hand")
    frontend.build()
    assert bundler.runs == ["bundle"]


@pytest.mark.parametrize("name", ["tsconfig.json", "build.mjs", "src/main.ts"])
def test_whatever_the_bundler_reads_makes_another_bundle(bundler: Bundler, name: str) -> None:
    (bundler.folder / name).write_text("B")
    frontend.build()
    assert bundler.runs == ["bundle"]


def test_packages_of_an_installation_that_died_are_not_taken_for_those_of_an_earlier_lock(bundler: Bundler) -> None:
    lock = bundler.folder / "package-lock.json"
    lock.write_text("B")
    bundler.dies = True
    with pytest.raises(Failure):
        frontend.install()
    lock.write_text("A")
    bundler.dies = False
    frontend.install()
    assert bundler.runs == ["install", "install"]
