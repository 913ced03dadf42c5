"""Tells the stacks of our processes on this host: the Python processes of the units, and what they have started.

Processes that listen for a tracer are asked. Those that do not answer, and processors, which do not listen, are read
from outside with the py-spy of the release. Runs as root.

Takes units, as in UNITS. Prints a JSON object:

- `services`: name, unit and state (as systemd has it) of each service; of `processor` only those that run.
- `processes`: `service`, `unit`, `pid`, `program`, `state` (as the kernel has it), `by` (`itself` or `py-spy`) and
  `python`, then what linetrace/stacks.py describes; without tasks if it is by py-spy, whose threads have `holds` (the
  interpreter). `why` says why a process that listens did not answer. One without stacks has `error`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

UNITS = {
    "web": ("longhaul-web.service", "/run/longhaul-web"),
    "worker": ("longhaul-worker.service", "/run/longhaul-worker"),
    "processor": ("longhaul-processor@*.service", ""),
}
"""Unit -> its service, or a pattern of them, and the folder in which its processes listen."""
CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
HOME = Path("/opt/longhaul")
VENV = HOME / "current/venv/bin"
# -I: not the user's own files; -B: a release is not written to.
ATTACH = (VENV / "python", "-IB", "-m", "linetrace", "attach", "--stacks")
PY_SPY = VENV / "py-spy"
ATTACH_SECONDS = 10
"""Longer than linetrace waits for a process."""
PY_SPY_SECONDS = 5
MOST_FRAMES = 200
LONGEST_SOURCE = 200
LARGEST_FILE = 1_000_000

type Values = dict[str, Any]


def services(units: list[str]) -> list[Values]:
    """The services of units, with `group`, their control group, "" if there is none."""
    command = ["systemctl", "show", "--property=Id,ActiveState,ControlGroup", *(UNITS[unit][0] for unit in units)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = []
    for block in filter(None, said.split("\n\n")):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = values["Id"]
        unit = next(unit for unit in units if name.startswith(UNITS[unit][0].partition("*")[0]))
        found.append({"name": name, "unit": unit, "state": values["ActiveState"], "group": values["ControlGroup"]})
    return found


def pids(group: str) -> list[int]:
    """The processes of a control group and of those below it."""
    if not group:
        return []
    found: list[int] = []
    for path in (CGROUPS / group.lstrip("/")).rglob("cgroup.procs"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            continue  # it has just ended
    return sorted(found)


def described(pid: int) -> Values | None:
    """What /proc says of a process, None if it has ended; `inner_pid` is its id in its own namespace."""
    try:
        executable = (PROC / str(pid) / "exe").readlink().name
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        status = (PROC / str(pid) / "status").read_text()
    except OSError:
        return None
    state = re.search(r"^State:\s+(.*)$", status, re.MULTILINE)
    # In a namespace of process ids, as that of a processor, a process and its threads have other ids than here.
    inside = re.search(r"^NSpid:.*\s(\d+)$", status, re.MULTILINE)
    python = executable.startswith("python")
    return {
        "pid": pid,
        "inner_pid": int(inside[1]) if inside else pid,
        "program": program(words) if python else executable,
        "state": state[1] if state else "",
        "is_python": python,
    }


def program(words: list[str]) -> str:
    """The program that a command line of Python runs, in short, without its arguments."""
    rest = [word for word in words[1:] if not word.startswith("-")]
    if not rest:
        return Path(words[0]).name if words else "python"
    name = Path(rest[0]).name
    return " ".join([name, *rest[1:2]]) if name == "longhaul" else name


# --- Processes that are asked ---------------------------------------------------------------------------------------


def told(processes: list[Values]) -> dict[int, Values]:
    """Process id -> what those that listen say of themselves, or `error`."""
    sockets: dict[str, int] = {}
    for process in processes:
        folder = UNITS[process["unit"]][1]
        if folder:
            sockets |= {str(path): process["pid"] for path in Path(folder).glob(f"*-{process['pid']}.sock")}
    if not sockets:
        return {}
    try:
        said = subprocess.run([*ATTACH, *sockets], capture_output=True, text=True, check=False, timeout=ATTACH_SECONDS)
        # What is said beside the answer, as of an older release that does not know the question, is why there is none.
        found = json.loads(said.stdout) if said.stdout else None
        why = (said.stderr.strip().splitlines() or [f"exit code {said.returncode}"])[-1]
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        found, why = None, str(error)
    answers = found if found is not None else {Path(path).stem: {"error": why} for path in sockets}
    return {pid: answers[Path(path).stem] for path, pid in sockets.items()}


# --- Processes that are read from outside ---------------------------------------------------------------------------


def read(pid: int, inner_pid: int) -> Values:
    """What py-spy reads of a process, in the form of linetrace, or `error`."""
    if not PY_SPY.exists():
        return {"error": "the release that is installed here has no py-spy: deploy a newer one"}
    # It stops the process for some milliseconds. If that cannot be, as with one that is stopped or waits for a disk, it
    # reads while the process runs: what hangs does not change.
    error = ""
    for how in ([], ["--nonblocking"]):
        try:
            said = subprocess.run(
                [PY_SPY, "dump", "--json", *how, "--pid", str(pid)],
                capture_output=True,
                text=True,
                check=False,
                timeout=PY_SPY_SECONDS,
            )
            if said.returncode == 0:
                return converted(json.loads(said.stdout), inner_pid)
            error = error or reason(said.stderr)
        except subprocess.TimeoutExpired:
            error = error or f"it took longer than {PY_SPY_SECONDS} s"
        except (OSError, ValueError) as problem:
            error = error or str(problem)
    return {"error": f"py-spy cannot read it: {error}"}


def reason(errors: str) -> str:
    """The causes that py-spy names, without its own stack."""
    lines = [line.strip() for line in errors.partition("Stack backtrace")[0].splitlines()]
    causes = [re.sub(r"^(Error|\d+): ", "", line) for line in lines if line and line != "Caused by:"]
    return "; ".join(causes) or "it does not say why"


def converted(traces: list[Values], inner_pid: int) -> Values:
    """The threads of py-spy in the form of linetrace, the main one first: its id is that of the process."""
    numbers: dict[tuple[str, int, str], int] = {}
    threads = []
    for trace in sorted(traces, key=lambda trace: (trace["os_thread_id"] != inner_pid, trace["os_thread_id"] or 0)):
        # Without the module threading, no thread has a name.
        name = trace["thread_name"] or ("MainThread" if trace["os_thread_id"] == inner_pid else "")
        inner = trace["frames"][:MOST_FRAMES]
        positions = [(frame["filename"], frame["line"], frame["name"]) for frame in reversed(inner)]
        if positions and positions[0][0].endswith("/linetrace/listener.py"):
            continue  # linetrace leaves it out too
        threads.append(
            {
                "name": name,
                "ident": trace["thread_id"],
                "task": None,
                "holds": trace["owns_gil"],
                "stack": [numbers.setdefault(position, len(numbers)) for position in positions],
                "left_out": len(trace["frames"]) - len(inner),
            }
        )
    texts: dict[str, list[str]] = {}
    frames = [
        {"file": file, "line": line, "function": function, "source": source(file, line, texts), "own": is_own(file)}
        for file, line, function in numbers
    ]
    return {"threads": threads, "frames": frames, "tasks": [], "tasks_left_out": 0, "problems": []}


def is_own(file: str) -> bool:
    """Whether a file is the application's or a processor's."""
    libraries, _, name = file.rpartition("/site-packages/")
    return file.startswith(f"{HOME}/") and (name.startswith("longhaul/") if libraries else "/processors/" in file)


def source(file: str, line: int, texts: dict[str, list[str]]) -> str:
    """A line of a file, stripped. The process says which file, and it may lie: only Python's and ours are read."""
    path = Path(file)
    if file not in texts:
        texts[file] = []
        try:
            true = path.resolve()
            readable = true.is_relative_to(HOME.resolve()) or true.is_relative_to("/usr/lib")
            if readable and true.suffix == ".py" and true.is_file() and true.stat().st_size <= LARGEST_FILE:
                texts[file] = true.read_text(errors="replace").split("\n")
        except (OSError, ValueError):
            pass
    return texts[file][line - 1].strip()[:LONGEST_SOURCE] if 0 < line <= len(texts[file]) else ""


# --- All ------------------------------------------------------------------------------------------------------------


def stacks(units: list[str]) -> Values:
    """What the module's docstring describes."""
    known = services(units)
    processes = [
        {"service": service["name"], "unit": service["unit"], **process}
        for service in known
        for pid in pids(service.pop("group"))
        if (process := described(pid)) is not None
    ]
    answers = told([process for process in processes if process["is_python"]])

    def complete(process: Values) -> Values:
        said, inner_pid = answers.get(process["pid"]), process.pop("inner_pid")
        if not process.pop("is_python"):
            return {**process, "error": "it does not run Python"}
        if said is not None and "error" not in said:
            return {**process, "by": "itself", **{key: said[key] for key in said if key not in ("type", "program")}}
        why = {"why": said["error"]} if said is not None else {}
        return {**process, "by": "py-spy", "python": "", **why, **read(process["pid"], inner_pid)}

    with ThreadPoolExecutor(max_workers=4) as pool:
        return {"services": known, "processes": list(pool.map(complete, processes))}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(stacks(sys.argv[1:] or list(UNITS))) + "\n")
