"""`python -m linetrace script.py`: the program notices nothing, and no line is lost however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.linetrace.running import PACKAGE, alone, run, traced, write

ENDS = {
    "exit code": """\
import sys
sys.exit(3)
""",
    "exit with a text": """\
import sys
sys.exit('a text')
""",
    "exit at once": """\
import os
print('x', flush=True)
os._exit(7)
""",
    "traceback": """\
def f(n):
    return 1 / n
try:
    f(0)
except ZeroDivisionError as error:
    raise KeyError from error
""",
    "traceback of a thread": """\
import threading
def f():
    raise ValueError(1)
thread = threading.Thread(target=f, name='T')
thread.start(); thread.join()
""",
    "syntax error": """\
x = 1
if:
""",
    "SIGTERM": """\
import os, signal
print('x', flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print('never')
""",
    "SIGKILL": """\
import os, signal
print('x', flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
    "SIGINT": """\
import os, signal
os.kill(os.getpid(), signal.SIGINT)
""",
    "own excepthook": """\
import sys
sys.excepthook = lambda *e: print(e[0], e[2].tb_frame.f_code.co_name, e[2].tb_next)
1 / 0
""",
    "abort": """\
import os
os.abort()
""",
}

ENDINGS = ("exit(", "kill(", "raise ", "1 / 0", "abort()")

LOOKS = """\
import inspect, os, pickle, sys, threading, traceback
class Thing: pass
print(sys.argv, sys.orig_argv, __name__, __file__, __spec__, __package__, __cached__)
print(__doc__, __builtins__)
print(sys.path, sorted(sys.path_importer_cache), sys.flags, sys.warnoptions)
print(sorted(name for name in {*sys.modules} - {*sys.builtin_module_names} if 'encodings.' not in name))
print(sorted(os.environ.items()), sorted(globals()), sys.modules["__main__"].__dict__ is globals())
print(pickle.loads(pickle.dumps(Thing())).__class__, len(inspect.stack()), traceback.format_stack())
print([thread.name for thread in threading.enumerate()], sys.gettrace(), sys.getprofile())
print(sys.excepthook is sys.__excepthook__)
with open(os.devnull) as null:
    print(null.fileno(), sys.getrecursionlimit(), sys.stdin.read(), os.getppid() > 0)
def deep(n=0):
    try:
        return deep(n + 1)
    except RecursionError:
        return n
print("the end" if deep() else "")
"""


@pytest.mark.parametrize("how", ENDS)
def test_a_program_ends_as_it_does_untraced(tmp_path: Path, how: str) -> None:
    write(tmp_path / "p", {"main.py": ENDS[how]})
    untraced, ran = alone(tmp_path / "p"), traced(tmp_path / "p")
    assert ran[:3] == untraced[:3]
    assert untraced.code != 0 or "thread" in how
    if how != "syntax error":
        # The line that ended the program is there, though nothing ran after it.
        ending = max(ENDS[how].splitlines(), key=lambda line: any(word in line for word in ENDINGS))
        assert any(line.endswith(f": {ending}") for line in ran.lines), ran.lines


@pytest.mark.parametrize("flags", [[], ["-O", "-W", "error", "-X", "dev"], ["-Bu"]], ids=" ".join)
def test_a_program_sees_what_it_sees_untraced(tmp_path: Path, flags: list[str]) -> None:
    folder = tmp_path / "p"
    write(folder, {"main.py": LOOKS})
    untraced = run([*flags, "main.py", "a", "--calls", "-m"], folder)
    ran = run([*flags, "-m", "linetrace", "--to", "file:../t", "main.py", "a", "--calls", "-m"], folder)
    assert (ran.returncode, ran.stderr, ran.stdout) == (untraced.returncode, untraced.stderr, untraced.stdout)
    assert untraced.returncode == 0
    assert len((tmp_path / "t").read_text().splitlines()) > 10


def test_the_recursion_limit_is_met_at_most_one_frame_earlier(tmp_path: Path) -> None:
    text = """\
def deep(n):
    try:
        return deep(n + 1)
    except RecursionError:
        return n
print(deep(0))
"""
    write(tmp_path / "p", {"main.py": text})
    untraced, ran = alone(tmp_path / "p"), traced(tmp_path / "p")
    assert ran.code == 0
    assert 0 <= int(untraced.output) - int(ran.output) <= 1
    # Near the limit there is no room for the tracer: a few frames have no lines.
    assert 0 <= int(untraced.output) - ran.lines.count("__main__:3:         return deep(n + 1)") < 20


def test_a_traceback_of_a_recursion_has_no_frame_of_the_tracer(tmp_path: Path) -> None:
    write(tmp_path / "p", {"main.py": "def deep(n):\n    m = n + 1\n    return deep(m)\ndeep(0)\n"})
    ran = traced(tmp_path / "p")
    assert ran.code == 1
    assert "RecursionError" in ran.errors
    assert "linetrace" not in ran.errors


def test_a_module_is_run_with_its_parent_packages(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    write(
        folder,
        {
            "pack/__init__.py": "before = 1\n",
            "pack/sub/__init__.py": "",
            "pack/sub/__main__.py": "import sys\nfrom .. import before\nprint(sys.argv, __spec__.name, before)\n",
        },
    )
    untraced = run(["-m", "pack.sub", "x"], folder)
    ran = traced(folder, "x", program=["-m", "pack.sub"])
    assert (ran.code, ran.output, ran.errors) == (untraced.returncode, untraced.stdout, untraced.stderr)
    assert ran.lines[0] == "pack:1: before = 1"
    assert ran.lines[-1] == "__main__:3: print(sys.argv, __spec__.name, before)"


def test_a_module_of_the_standard_library_can_be_traced_by_itself(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    ran = traced(tmp_path / "p", "-h", program=["-m", "json.tool"])
    assert ran.code == 0
    assert {line.split(":")[0] for line in ran.lines} <= {
        "__main__",
        "json.tool",
        "json",
        "json.decoder",
        "json.encoder",
        "json.scanner",
    }
    assert any("parser = argparse.ArgumentParser(" in line for line in ran.lines)


@pytest.mark.parametrize(
    "name", ["json", "queue", "re", "socket", "argparse", "dataclasses", "token", "select", "struct"]
)
def test_a_program_may_have_files_named_as_those_that_the_tracer_imports(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "p"
    write(folder, {"main.py": f"import {name}\nprint({name}.OWN)\n", f"{name}.py": "OWN = 'own'\n"})
    untraced, ran = alone(folder), traced(folder)
    assert ran[:3] == untraced[:3]
    if name not in sys.builtin_module_names:  # some builds have `select` in the interpreter, which comes first
        assert ran[:3] == (0, "own\n", "")
    assert ran.lines == [f"__main__:1: import {name}", f"{name}:1: OWN = 'own'", f"__main__:2: print({name}.OWN)"]


def test_a_sitecustomize_of_the_environment_runs_and_is_what_the_program_gets(tmp_path: Path) -> None:
    folder, more = tmp_path / "p", tmp_path / "more"
    write(
        folder,
        {"main.py": "import os, sys, sitecustomize\nprint(sitecustomize.SITE, os.environ['PYTHONPATH'], sys.path)\n"},
    )
    write(more, {"sitecustomize.py": "SITE = 5\n"})
    path = f"{more}:{PACKAGE.parent}"
    untraced = run(["main.py"], folder, PYTHONPATH=path)
    ran = run(["-m", "linetrace", "--to", "file:../t", "main.py"], folder, PYTHONPATH=path)
    assert untraced.stdout.startswith("5 ")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, untraced.stdout, "")
    assert len((tmp_path / "t").read_text().splitlines()) == 2


def test_lines_to_standard_output_stand_between_the_programs_own(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": "for i in range(2):\n    print(i)\n"})
    ran = run(["-u", "-m", "linetrace", "main.py"], tmp_path)
    assert ran.stdout.splitlines() == [
        "__main__:1: for i in range(2):",
        "__main__:2:     print(i)",
        "0",
        "__main__:1: for i in range(2):",
        "__main__:2:     print(i)",
        "1",
        "__main__:1: for i in range(2):",
    ]


def test_a_reader_that_goes_away_does_not_hurt_the_program(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": "for i in range(5000):\n    x = i\nopen('done', 'w').close()\n"})
    process = subprocess.Popen(
        [sys.executable, "-m", "linetrace", "--to", "stderr", "main.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PACKAGE.parent)},
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    process.stderr.read(10)
    process.stderr.close()
    assert process.wait(30) == 0
    assert (tmp_path / "done").exists()


def test_children_of_fork_are_traced(tmp_path: Path) -> None:
    text = "import os\nif os.fork() == 0:\n    x = 'child'\n    os._exit(0)\nos.wait()\n"
    write(tmp_path / "p", {"main.py": text})
    lines = traced(tmp_path / "p").lines
    assert sorted(lines) == [f"__main__:{number}: {line}" for number, line in enumerate(text.splitlines(), start=1)]


def test_a_programs_own_trace_function_works(tmp_path: Path) -> None:
    text = """\
import sys
seen = []
def watch(frame, event, argument):
    seen.append((event, frame.f_lineno))
    return watch
def f():
    x = 1
    return x
sys.settrace(watch)
f()
sys.settrace(None)
print(seen)
"""
    write(tmp_path / "p", {"main.py": text})
    untraced, ran = alone(tmp_path / "p"), traced(tmp_path / "p")
    assert ran[:3] == untraced[:3]
    assert [line for line in ran.lines if line.startswith("__main__:7:")] == ["__main__:7:     x = 1"]


def test_other_tools_of_monitoring_keep_their_places(tmp_path: Path) -> None:
    text = """\
import sys
for tool in (0, 1, 2, 5):
    sys.monitoring.use_tool_id(tool, "other")
    sys.monitoring.free_tool_id(tool)
import cProfile
profile = cProfile.Profile()
profile.enable()
sum([1, 2])
profile.disable()
print("fine")
"""
    write(tmp_path / "p", {"main.py": text})
    ran = traced(tmp_path / "p")
    assert (ran.code, ran.output, ran.errors) == (0, "fine\n", "")


def test_a_location_is_shown_so_often_and_then_counted(tmp_path: Path) -> None:
    write(tmp_path / "p", {"main.py": "for i in range(50):\n    x = i\n"})
    assert traced(tmp_path / "p", options=["--per-location", "2"]).lines == [
        "__main__:1: for i in range(50):",
        "__main__:2:     x = i",
        "__main__:1: for i in range(50):",
        "__main__:2:     x = i",
        "__main__:1: ## shown 2 times, from now on only counted",
        "__main__:2: ## shown 2 times, from now on only counted",
        "__main__:1: ## 49 times more, not shown",
        "__main__:2: ## 48 times more, not shown",
    ]


def test_the_trace_ends_at_its_limit_and_the_program_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "p", {"main.py": "for i in range(50):\n    x = i\nprint(x)\n"})
    ran = traced(tmp_path / "p", options=["--lines", "3"])
    assert ran.output == "49\n"
    assert len(ran.lines) == 4
    assert ran.lines[-1] == "linetrace:0: ## ended: it has shown 3 lines; 3 lines"


def test_lines_as_json_with_ids(tmp_path: Path) -> None:
    write(tmp_path / "p", {"main.py": "x = 'ä'\n"})
    lines = traced(tmp_path / "p", options=["--json", "--id", "job=5", "--id", "upload=u7"]).lines
    (line,) = [json.loads(line) for line in lines]
    assert line["type"] == line["kind"] == "line"
    assert (line["module"], line["line"], line["source"]) == ("__main__", 1, "x = 'ä'")
    assert line["ids"] == {"job": "5", "upload": "u7"}
    assert line["file"] == str(tmp_path / "p" / "main.py")
    assert abs(line["time"] - time.time()) < 60


def test_values_calls_returns_exceptions_and_timing(tmp_path: Path) -> None:
    text = """\
def half(number, *rest, password=None, **more):
    result = number / 2
    return result
half(4, 1, password="geheim", a=2)
try:
    half("x")
except TypeError:
    pass
"""
    write(tmp_path / "p", {"main.py": text})
    options = ["--values", "res*,password", "--calls", "--returns", "--exceptions"]
    lines = [line for line in traced(tmp_path / "p", options=options).lines if ": <- <module>" not in line]
    assert lines == [
        "__main__:1: -> <module>() depth 1",
        "__main__:1: def half(number, *rest, password=None, **more):",
        "__main__:4: half(4, 1, password=\"geheim\", a=2)",
        "__main__:1: -> half(number=4, password=***, rest=(1,), more={'a': 2}) depth 2",
        "__main__:1: == password = ***",
        "__main__:1: == rest = (1,)",
        "__main__:2:     result = number / 2",
        "__main__:2: == result = 2.0",
        "__main__:3:     return result",
        "__main__:3: <- half = 2.0",
        "__main__:5: try:",
        "__main__:6:     half(\"x\")",
        "__main__:1: -> half(number='x', password=***, rest=(), more={}) depth 2",
        "__main__:1: == password = ***",
        "__main__:1: == rest = ()",
        "__main__:2:     result = number / 2",
        "__main__:2: !! TypeError(\"unsupported operand type(s) for /: 'str' and 'int'\")",
        "__main__:6: !! TypeError(\"unsupported operand type(s) for /: 'str' and 'int'\")",
        "__main__:7: except TypeError:",
        "__main__:8:     pass",
    ]  # fmt: skip
    timed = traced(tmp_path / "p", options=["--timing"]).lines
    assert timed[0].endswith("**more):")
    assert all(line.endswith((" us]", " ms]")) for line in timed[1:])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["none.py"], "there is no script none.py"),
        (["-m", "no_such"], "there is no module no_such"),
        (["--to", "nowhere", "main.py"], "there is no sink 'nowhere'"),
        (["--to", "file:/no/such/folder", "main.py"], "cannot be written: No such file or directory"),
        (["--to", "syslog:/no/socket", "main.py"], "there is no syslog at /no/socket"),
        (["--to", "syslog", "--facility", "none", "main.py"], "syslog has no facility 'none'"),
        (["--lines", "0", "main.py"], "lines is above 0"),
        (["--id", "job", "main.py"], "an id is written NAME=VALUE"),
        ([], "name a script or -m module"),
    ],
    ids=str,
)
def test_wrong_usage_is_said_before_the_program_runs(tmp_path: Path, words: list[str], reason: str) -> None:
    write(tmp_path, {"main.py": "open('ran', 'w')\n"})
    ran = run(["-m", "linetrace", *words], tmp_path)
    assert ran.returncode == 2
    assert reason in ran.stderr
    assert not (tmp_path / "ran").exists()


def test_an_isolated_interpreter_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": ""})
    code = (
        f"import runpy, sys; sys.path[:0] = [{str(PACKAGE.parent)!r}]; runpy.run_module('linetrace', None, '__main__')"
    )
    ran = run(["-I", "-c", code, "main.py"], tmp_path)
    assert ran.returncode == 2
    assert "python -E, -I and -S also keep the tracer out" in ran.stderr


def test_signals_that_a_shell_ignores_stay_ignored(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('alive')\n"})
    command = ["-m", "linetrace", "--to", "file:t", "main.py"]
    ran = run(command, tmp_path, signal.SIG_IGN)
    assert (ran.returncode, ran.stdout) == (0, "alive\n")
    assert os.path.getsize(tmp_path / "t") > 0  # noqa: PTH202
