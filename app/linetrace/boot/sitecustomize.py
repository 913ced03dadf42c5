"""Starts the trace of a script inside the interpreter that will run it; see linetrace/script.py.

Python imports a module of this name before the program. This one leaves no trace of itself: it restores the environment
and the path, starts what script.py prepared, and gives way to the real `sitecustomize`, if there is one.
"""

import os
import sys


def _begin() -> None:
    boot = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # pathlib is not imported yet
    package = os.path.dirname(os.path.dirname(boot))  # noqa: PTH120
    plan = os.environ.pop("LINETRACE_BOOT")
    before = os.environ.pop("LINETRACE_PYTHONPATH", None)
    if before is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = before
    sys.path.remove(boot)
    sys.path_importer_cache.pop(boot, None)

    path, modules, finders = sys.path[:], set(sys.modules), set(sys.path_importer_cache)
    given = {os.path.abspath(folder) for folder in (before or "").split(os.pathsep)}  # noqa: PTH100
    # Not the program's own `json.py`: while the tracer is imported, only the standard library and the tracer are there.
    sys.path[:] = [*(folder for folder in path if folder not in given), package]
    try:
        from linetrace.script import begin

        begin(plan)
    except Exception as error:  # noqa: BLE001  # the program runs in any case
        sys.stderr.write(f"linetrace: not traced: {type(error).__name__}: {error}\n")
    finally:
        sys.path[:] = path
        # What the tracer imported, it keeps; the program imports its own, so that its `queue.py` is found. Built-in
        # modules and codecs cannot be anything else for it; Python remembers a codec without its module.
        for name in set(sys.modules) - modules - set(sys.builtin_module_names):
            if not name.startswith("encodings."):
                del sys.modules[name]
        for folder in set(sys.path_importer_cache) - finders:
            del sys.path_importer_cache[folder]


if "LINETRACE_BOOT" in os.environ:
    _begin()
del sys.modules["sitecustomize"]
try:
    import sitecustomize  # type: ignore[import-not-found,unused-ignore]  # noqa: F401  # the real one
except ImportError as error:
    if error.name != "sitecustomize":
        raise
    # As if this one had never been found: `site` ignores exactly this.
    raise ImportError("No module named 'sitecustomize'", name="sitecustomize") from None
