"""What a run of the tests comes to: what is tried twice, what counts as flaky, and what the run took."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from ops import flaky, roles, testing
from ops.errors import Failure
from ops.flaky import Flaky
from ops.paths import ROOT
from ops.timings import Use

TABLE = "| test | first seen | cause | mended in |\n|---|---|---|---|\n"
TEST = "tests/system/test_made_up.py::"
FOLDERS = {"fast": ("tests/unit", "tests/render", "tests/structure"), "app": ("app/tests",), "soak": ("tests/soak",)}


class MadeUp:
    """A checkout with made-up tests; `runs` counts how often one has run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, *folders: str, **failures: int) -> None:
        """Write tests that fail so many times and pass then."""
        for folder in folders:
            text = "from pathlib import Path\n"
            for name, times in failures.items():
                counter = self.root / f"{name}.runs"
                text += (
                    f"def test_{name}():\n"
                    f"    with Path({str(counter)!r}).open('a') as runs: runs.write('.')\n"
                    f"    print('said by {name}')\n"
                    f"    assert len(Path({str(counter)!r}).read_text()) > {times}\n"
                )
            path = self.root / folder / "test_made_up.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def program(self, name: str, text: str) -> None:
        """Write a program that stands in for an installed one."""
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)

    def runs(self, name: str) -> int:
        counter = self.root / f"{name}.runs"
        return len(counter.read_text()) if counter.exists() else 0

    def run(self, stage: str, *, retry: bool = True) -> str:
        """Run a stage; why the run failed, empty if it passed."""
        try:
            testing.run(testing.chosen(stage), retry=retry)
        except Failure as failure:
            return failure.message
        return ""

    def flaky_tests(self) -> dict[str, tuple[str, str]]:
        """What artefacts/flaky.json has: test -> both logs."""
        found = json.loads((self.root / "artefacts/flaky.json").read_text())
        return {one["test"]: (one["first"], one["second"]) for one in found}


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    """Its list of flaky tests is empty."""
    monkeypatch.setattr(testing, "ROOT", tmp_path)
    monkeypatch.setattr(testing, "ARTEFACTS", tmp_path / "artefacts")
    monkeypatch.setattr(testing, "FLAKY_TESTS", tmp_path / "flaky.md")
    monkeypatch.setattr(testing, "tool", lambda name: str(tmp_path / "bin" / name))
    monkeypatch.setattr(testing, "_ensure_browser", lambda: None)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where the plugin is
    # Without the plugins of other tests it starts in a third of the time.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "xdist.plugin")
    (tmp_path / "flaky.md").write_text(TABLE)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    (tmp_path / "tests/browser").mkdir(parents=True)
    # The real one deploys: with these it cannot be found in the place of one that stands in.
    (tmp_path / "tests/support").mkdir()
    for package in ("tests", "tests/support"):
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.setattr(testing, "TEST_LAB", "none")
    return MadeUp(tmp_path)


# --- What is tried again ----------------------------------------------------------------------------------------------


def test_a_lab_test_that_fails_once_is_flaky_and_the_run_passes(
    made_up: MadeUp, capfd: pytest.CaptureFixture[str]
) -> None:
    made_up.add("tests/system", good=0, shaky=1)
    assert made_up.run("system") == ""
    assert (made_up.runs("good"), made_up.runs("shaky")) == (1, 2), "only what failed runs again"
    ((test, (first, second)),) = made_up.flaky_tests().items()
    assert test == f"{TEST}test_shaky"
    assert "assert 1 > 1" in first
    assert "said by shaky" in first
    assert "call passed" in second
    said = capfd.readouterr()
    assert f"flaky: {TEST}test_shaky" in said.err
    assert "1 failed, 1 passed" in said.out
    assert "1 passed in" in said.out, "both runs of pytest end with their own closing line"


def test_a_lab_test_that_fails_twice_fails_the_run(made_up: MadeUp) -> None:
    made_up.add("tests/system", broken=2)
    assert made_up.run("system") == "Failed: system."
    assert made_up.runs("broken") == 2
    assert made_up.flaky_tests() == {}


def test_a_third_flaky_test_fails_the_run(made_up: MadeUp) -> None:
    made_up.add("tests/system", one=1, two=1, three=1)
    assert made_up.run("system") == "3 tests are flaky; a run may have 2."
    assert len(made_up.flaky_tests()) == 3


def test_the_flaky_tests_of_all_stages_count(made_up: MadeUp) -> None:
    made_up.add("tests/system", one=1, two=1)
    scenario(made_up, failures=1)
    assert made_up.run("molecule:web,system") == "3 tests are flaky; a run may have 2."


def test_what_fails_everywhere_is_not_tried_again(made_up: MadeUp) -> None:
    made_up.add("tests/system", **{f"t{number}": 1 for number in range(6)})
    assert made_up.run("system") == "Failed: system."
    assert made_up.runs("t0") == 1


def test_a_listed_test_without_a_cause_fails_the_run(made_up: MadeUp) -> None:
    (made_up.root / "flaky.md").write_text(f"{TABLE}| `{TEST}test_shaky` | 2026-01-02 | | |\n")
    made_up.add("tests/system", shaky=1)
    assert made_up.run("system") == f"{TEST}test_shaky is flaky again, and docs/flaky.md has no cause for it."


@pytest.mark.parametrize("listed", [{}, {"shaky": "a race"}, {"other": ""}])
def test_a_test_that_is_not_listed_or_has_a_cause_fails_no_run(listed: dict[str, str]) -> None:
    assert flaky.objections([Flaky("shaky", "first", "second")], listed) == []


def scenario(made_up: MadeUp, failures: int) -> None:
    """Stand in for molecule: fails so many times."""
    runs = made_up.root / "scenario.runs"
    step = r"printf 'INFO     \033[32mdefault\033[0m ➜ \033[33m%s\033[0m: \033[36m%s\033[0m\n'"
    made_up.program(
        "molecule",
        f"printf . >>{runs}\n{step} side_effect Executing\n{step} side_effect 'Executed: Successful'\n"
        f"echo run $(wc -c <{runs})\ntest $(wc -c <{runs}) -gt {failures}\n",
    )


@pytest.mark.parametrize(("failures", "why"), [(0, ""), (1, ""), (2, "Failed: molecule:web.")])
def test_a_scenario_is_tried_again_as_a_whole(made_up: MadeUp, failures: int, why: str) -> None:
    scenario(made_up, failures)
    assert made_up.run("molecule:web") == why
    assert made_up.runs("scenario") == min(failures + 1, 2)
    expected = {"molecule:web": ["run 1", "run 2"]} if failures == 1 else {}
    found = {test: [log.splitlines()[-1] for log in logs] for test, logs in made_up.flaky_tests().items()}
    assert found == expected


def deployment(made_up: MadeUp, failures: int) -> None:
    """Stand in for the deployment that the system tests begin with: fails so many times."""
    path = made_up.root / "tests/support/converged.py"
    counter = made_up.root / "deployment.runs"
    path.write_text(
        "import os\nfrom pathlib import Path\nassert os.environ['LONGHAUL_LAB'] == 'none'\n"
        f"with Path({str(counter)!r}).open('a') as runs: runs.write('.')\n"
        f"assert len(Path({str(counter)!r}).read_text()) > {failures}\n"
    )


@pytest.mark.parametrize(("stages", "failures", "runs"), [("molecule", 0, 0), ("molecule,system", 1, 2)])
def test_the_site_is_deployed_beside_the_scenarios_if_the_system_is_tested(
    made_up: MadeUp, monkeypatch: pytest.MonkeyPatch, stages: str, failures: int, runs: int
) -> None:
    """It is tried again like a scenario."""
    monkeypatch.setattr(roles, "names", lambda: ["web"])
    scenario(made_up, failures=0)
    deployment(made_up, failures)
    made_up.add("tests/system", good=0)
    assert made_up.run(stages) == ""
    assert (made_up.runs("deployment"), made_up.runs("scenario")) == (runs, 1)
    assert set(made_up.flaky_tests()) == ({"system:site"} if runs else set())


@pytest.mark.parametrize(("failures", "why"), [(0, ""), (1, ""), (2, "Failed: system.")])
def test_tests_with_labs_of_their_own_are_tried_again_by_the_file(made_up: MadeUp, failures: int, why: str) -> None:
    made_up.add("tests/labs", lab=failures)
    made_up.add("tests/system", good=0)
    assert made_up.run("system") == why
    assert (made_up.runs("lab"), made_up.runs("good")) == (min(failures + 1, 2), 1)
    assert set(made_up.flaky_tests()) == ({"tests/labs/test_made_up.py"} if failures == 1 else set())


def waiting_for(made_up: MadeUp, folder: str, name: str, other: str, *, then: str = "") -> None:
    """Write a test that runs only beside the other one."""
    path = made_up.root / folder / "test_made_up.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "import os, time\nfrom pathlib import Path\n"
        f"def test_{name}():\n"
        f"    Path({str(made_up.root / name)!r}).write_text(str(os.nice(0)))\n"
        "    end = time.monotonic() + 30\n"
        f"    while not Path({str(made_up.root / other)!r}).exists():\n"
        "        assert time.monotonic() < end\n"
        "        time.sleep(0.05)\n"
        f"    {then or 'pass'}\n"
    )


@pytest.mark.parametrize(("then", "why"), [("", ""), ("assert not 'said by this one'", "Failed: app.")])
def test_the_application_is_tested_beside_the_system(
    made_up: MadeUp, capfd: pytest.CaptureFixture[str], then: str, why: str
) -> None:
    """With less of the processors; what it says comes when it has ended, all of it, and its failure fails the run."""
    waiting_for(made_up, "app/tests", "application", "system", then=then)
    waiting_for(made_up, "tests/system", "system", "application")
    assert made_up.run("app,system") == why
    niceness = [int((made_up.root / name).read_text()) for name in ("application", "system")]
    assert niceness[0] == min(niceness[1] + 10, 19)
    said, shown = capfd.readouterr()
    assert ("1 failed in" if then else "1 passed in") in said
    assert ("said by this one" in said) == bool(then)
    assert f"app: {'FAILED' if then else 'passed'} in" in shown
    assert {stage["name"] for stage in json.loads((made_up.root / "artefacts/timings.json").read_text())["stages"]} == {
        "app",
        "system",
    }


def test_the_application_alone_shows_its_tests_at_once(made_up: MadeUp, capfd: pytest.CaptureFixture[str]) -> None:
    made_up.add("app/tests", good=0)
    assert made_up.run("app") == ""
    assert "1 passed in" in capfd.readouterr().out
    assert not (made_up.root / "artefacts/app.log").exists()


@pytest.mark.parametrize("stage", FOLDERS)
def test_what_needs_no_lab_is_never_tried_again_and_the_soak_neither(made_up: MadeUp, stage: str) -> None:
    for number, folder in enumerate(FOLDERS[stage]):
        made_up.add(folder, **{f"shaky{number}": 1})
    if stage == "soak":
        made_up.add("app/tests", good=0)
    assert made_up.run(stage) == f"Failed: {stage}."
    assert {made_up.runs(f"shaky{number}") for number in range(len(FOLDERS[stage]))} == {1}


def test_lint_is_never_tried_again(made_up: MadeUp) -> None:
    for name in ("ansible-lint", "mypy", "ruff", "yamllint", "lint-imports"):
        made_up.program(name, f"printf . >>{made_up.root}/{name}.runs\n")
    made_up.program("mypy", f"printf . >>{made_up.root}/mypy.runs; test $(wc -c <{made_up.root}/mypy.runs) -gt 1\n")
    assert made_up.run("lint") == "Failed: lint."
    assert made_up.runs("mypy") == 1


@pytest.mark.parametrize("fails", ["", "mypy"])
def test_after_what_fails_in_a_minute_no_lab_is_made(
    made_up: MadeUp, capfd: pytest.CaptureFixture[str], fails: str
) -> None:
    for name in ("ansible-lint", "mypy", "ruff", "yamllint", "lint-imports"):
        made_up.program(name, f"echo said by {name}; test {name} != {fails or 'none'}\n")
    for folder in FOLDERS["fast"]:
        made_up.add(folder, good=0)
    made_up.add("tests/system", lab=0)
    assert made_up.run("lint,fast,system") == ("Failed: lint." if fails else "")
    assert (made_up.runs("good"), made_up.runs("lab")) == (3, 0 if fails else 1)
    assert "said by mypy\n" in capfd.readouterr().out


def test_without_retry_a_lab_test_fails_at_once(made_up: MadeUp) -> None:
    made_up.add("tests/system", shaky=1)
    assert made_up.run("system", retry=False) == "Failed: system."
    assert made_up.runs("shaky") == 1


def test_the_nightly_never_tries_again() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text())["jobs"]
    (command,) = (step["run"] for step in jobs["test"]["steps"] if "./inv" in step.get("run", ""))
    assert command.endswith("./inv test --no-retry")


def test_tests_that_cannot_be_run_fail_the_run(made_up: MadeUp) -> None:
    made_up.add("tests/system", good=0)
    (made_up.root / "tests/system/test_other.py").write_text("import nothing_of_that_name\n")
    assert made_up.run("system") == "Failed: system."
    shutil.rmtree(made_up.root / "tests/system")
    assert made_up.run("system") == "Failed: system."


@pytest.mark.parametrize("hosts", [1, 9])
def test_a_job_waits_for_room(hosts: int) -> None:
    """One that needs more hosts than there may be begins when all others have ended."""
    room, begun = testing.Room(5), threading.Event()

    def job() -> None:
        with room.taken(hosts):
            begun.set()

    with ThreadPoolExecutor() as pool:
        with room.taken(2):
            with room.taken(3):
                waiting = pool.submit(job)
                assert not begun.wait(0.2)
            assert begun.wait(30 if hosts == 1 else 0.2) == (hosts == 1)
        waiting.result(30)


def test_there_are_tests_with_labs_of_their_own() -> None:
    assert list(ROOT.glob(testing.LAB_TESTS))


# --- The list of flaky tests ------------------------------------------------------------------------------------------


def test_the_list_in_the_documents_can_be_read() -> None:
    assert flaky.known(testing.FLAKY_TESTS) is not None


@pytest.mark.parametrize("text", ["No table.\n", TABLE + "| a | b | c |\n", TABLE.replace("cause", "reason")])
def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "flaky.md").write_text(text)
    with pytest.raises(Failure, match="test, first seen, cause, mended in"):
        flaky.known(tmp_path / "flaky.md")


def test_one_cause_that_was_not_found_counts(tmp_path: Path) -> None:
    rows = ["| `a` | 1 | found | x |", "| `a` | 2 | | |", "| `a` | 3 | found | y |", "| `b` | 1 | found | z |"]
    (tmp_path / "flaky.md").write_text(TABLE + "\n".join(rows) + "\n")
    assert flaky.known(tmp_path / "flaky.md") == {"a": "", "b": "found"}


# --- What a run took --------------------------------------------------------------------------------------------------


def test_a_run_says_what_took_longest_and_what_the_processors_did(
    made_up: MadeUp, capfd: pytest.CaptureFixture[str]
) -> None:
    slow = "import time, pytest\n@pytest.fixture\ndef lab(): time.sleep(0.4)\ndef test_slow(lab): time.sleep(0.2)\n"
    (made_up.root / "tests/system").mkdir()
    (made_up.root / "tests/system/test_made_up.py").write_text(slow)
    scenario(made_up, failures=0)
    assert made_up.run("molecule:web,system") == ""
    found = json.loads((made_up.root / "artefacts/timings.json").read_text())
    parts = [(part["stage"], part["kind"], part["what"]) for part in found["parts"]]
    assert parts[:2] == [("system", "set-up", f"{TEST}test_slow"), ("system", "test", f"{TEST}test_slow")]
    assert ("molecule", "step", "web: check") in parts
    assert found["parts"][0]["seconds"] == pytest.approx(0.4, abs=0.15)
    molecule, system = found["stages"]
    assert (molecule["name"], system["name"]) == ("molecule:web", "system")
    assert system["seconds"] > 0.6
    assert system["use"]["working"] > 0
    shown = capfd.readouterr().err
    assert "The slowest 20 tests, set-ups and steps" in shown
    assert f"{TEST}test_slow" in shown
    assert "web: check" in shown


def test_the_use_of_processors_is_read_as_the_kernel_writes_it(tmp_path: Path) -> None:
    """proc(5): user nice system idle iowait irq softirq steal, in hundredths of a second."""
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure/cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull total=7\n")
    (tmp_path / "stat").write_text("cpu  100 200 300 400 500 600 700 800 900 1000\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    before = Use.now(tmp_path)
    (tmp_path / "pressure/cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\nfull total=9\n")
    (tmp_path / "stat").write_text("cpu  110 220 330 440 550 660 770 880 990 1100\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    used = Use.now(tmp_path).since(before)
    assert used.working == pytest.approx(0.1 + 0.2 + 0.3 + 0.6 + 0.7)
    assert (used.idle, used.waiting, used.taken) == pytest.approx((0.4, 0.5, 0.8))
    assert used.pressure == {"cpu": 0.5}
    assert used.share(used.idle) == pytest.approx(100 * 0.4 / 3.6)
