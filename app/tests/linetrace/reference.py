"""The classic line tracer, to compare with: `python reference.py TRACE SCRIPT ARGUMENTS...`.

It runs a script under sys.settrace, and writes `module:lineno: source` for each line of files in its folder. A line
that a frame repeats, because a loop of one line jumps back, begins with REPEATED. Shares nothing with linetrace.
"""

import os
import sys
import threading
import types

REPEATED = "~"
_trace, _script = sys.argv[1:3]
_folder = os.path.dirname(os.path.abspath(_script)) + os.sep  # noqa: PTH100, PTH120
_file = os.open(_trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
_sources: dict[str, list[str]] = {}


def _line(filename: str, number: int) -> str:
    if filename not in _sources:
        with open(filename, "rb") as file:  # noqa: PTH123
            content = file.read()
        encoding = "latin-1" if b"coding: latin-1" in content[:100] else "utf-8"
        _sources[filename] = content.decode(encoding).replace("\r\n", "\n").split("\n")
    lines = _sources[filename]
    return lines[number - 1] if number <= len(lines) else ""


def _tracer() -> object:
    before = 0

    def local(frame: types.FrameType, event: str, _argument: object) -> object:
        nonlocal before
        if event == "line":
            name, number = frame.f_globals["__name__"], frame.f_lineno
            mark = REPEATED if number == before else ""
            text = f"{mark}{name}:{number}: {_line(frame.f_code.co_filename, number).rstrip()}\n"
            os.write(_file, text.encode("utf-8", "backslashreplace"))
            before = number
        return local

    return local


def _globally(frame: types.FrameType, _event: str, _argument: object) -> object:
    filename = frame.f_code.co_filename
    if not filename.startswith(_folder):
        return None
    _line(filename, 1)  # read now: the program may change the file
    return frame.f_trace or _tracer()  # a generator that goes on has one already


def _run() -> None:
    sys.argv[:] = sys.argv[2:]
    sys.path[0] = _folder.rstrip(os.sep)
    main = types.ModuleType("__main__")
    main.__file__ = _script
    sys.modules["__main__"] = main
    with open(_script, "rb") as file:  # noqa: PTH123
        code = compile(file.read(), os.path.abspath(_script), "exec")  # noqa: PTH100
    threading.settrace(_globally)  # type: ignore[arg-type]
    sys.settrace(_globally)  # type: ignore[arg-type]
    exec(code, vars(main))  # noqa: S102


_run()
