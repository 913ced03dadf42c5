"""The callbacks that `sys.monitoring` calls in the threads of the program, and what keeps their errors from it.

An exception that leaves a callback goes into the program. Signal handlers run between the steps of a callback too, and
what they raise (a time-out, KeyboardInterrupt) is the program's: it passes. It is told by its traceback, which then has
a frame outside of this package.

Everything is bound in closures: the callbacks still run when the interpreter clears the globals of modules at its end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any

from linetrace.context import current

if TYPE_CHECKING:
    from linetrace.monitor import Monitor
    from linetrace.trace import CodeState, Trace

_events = sys.monitoring.events
EVENTS = (
    _events.LINE,
    _events.PY_START,
    _events.PY_RESUME,
    _events.PY_THROW,
    _events.PY_RETURN,
    _events.PY_YIELD,
    _events.RAISE,
)
PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep  # noqa: PTH100, PTH120  # pathlib is slow to import


def is_of_program(error: BaseException, package: str = PACKAGE) -> bool:
    """Whether an exception comes from code outside of this package, which a signal handler ran in between."""
    traceback = error.__traceback__
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(package):
            return True
        traceback = traceback.tb_next
    return False


class own_errors:  # noqa: N801  # used like a function
    """`with own_errors(monitor):` ends all traces if the code inside fails, and lets the program go on."""

    __slots__ = ("_monitor",)

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not isinstance(error, Exception) or is_of_program(error):
            return False
        if not isinstance(error, RecursionError):
            self._monitor.failed(error)
        return True


type Takers = Callable[[CodeState], tuple[Trace, ...]]


def callbacks(monitor: Monitor) -> dict[int, Callable[..., Any]]:
    """The callback of each event."""
    takers = _takers(monitor)
    return {
        _events.LINE: _on_line(monitor, takers),
        **_on_entering(monitor, takers),
        _events.PY_RETURN: _on_leaving(monitor, takers, "return"),
        _events.PY_YIELD: _on_leaving(monitor, takers, "yield"),
        _events.RAISE: _on_raise(monitor, takers),
    }


def _takers(monitor: Monitor) -> Takers:
    scope_of = current.get

    def takers(state: CodeState) -> tuple[Trace, ...]:
        """The traces that want what the running scope does in this code."""
        if not state.scoped:
            return state.always
        scope = scope_of()
        if scope is None:
            return state.always
        chosen = scope.takers if scope.generation == monitor.generation else monitor.takers(scope)
        if not chosen:
            return state.always
        return (*state.always, *(trace for trace in chosen if trace in state.scoped))

    return takers


def _on_line(monitor: Monitor, takers: Takers) -> Callable[[CodeType, int], None]:
    scope_of, of_program, failed, states = current.get, is_of_program, monitor.failed, monitor.states

    def on_line(code: CodeType, number: int) -> None:
        try:
            state = states.get(id(code))
            if state is None:
                return
            taking = takers(state)
            if taking:
                scope = scope_of()
                for trace in taking:
                    trace.line(state, number, scope)
            elif not state.always:
                monitor.foreign_line(state)
        except RecursionError:
            pass  # the program is nearly out of stack: it goes on, and meets the limit itself
        except Exception as error:
            if of_program(error):
                raise
            failed(error)

    return on_line


def _on_entering(monitor: Monitor, takers: Takers) -> dict[int, Callable[..., object]]:
    getframe, disable, scope_of = sys._getframe, sys.monitoring.DISABLE, current.get
    of_program, failed, states = is_of_program, monitor.failed, monitor.states

    def enters(code: CodeType) -> CodeState | None:
        """Register and light code that runs now in the frame two below, if it is wanted."""
        state = states.get(id(code))
        if state is None:
            state = monitor.register(code, getframe(2).f_globals)
        if state is not None and not state.lit and takers(state):
            monitor.light(state)
        return state

    def on_start(code: CodeType, _offset: int) -> object:
        try:
            state = enters(code)
            if state is None:
                return disable
            if state.lit:
                for trace in takers(state):
                    trace.call(state, scope_of())
        except RecursionError:
            pass  # the program is nearly out of stack: it goes on, and meets the limit itself
        except Exception as error:
            if of_program(error):
                raise
            failed(error)
        return None

    def on_resume(code: CodeType, _offset: int) -> object:
        try:
            state = enters(code)
            if state is None or not state.scoped:
                return disable
        except RecursionError:
            pass  # the program is nearly out of stack: it goes on, and meets the limit itself
        except Exception as error:
            if of_program(error):
                raise
            failed(error)
        return None

    def on_throw(code: CodeType, _offset: int, _error: BaseException) -> None:
        try:
            enters(code)
        except RecursionError:
            pass  # the program is nearly out of stack: it goes on, and meets the limit itself
        except Exception as error:
            if of_program(error):
                raise
            failed(error)

    return {_events.PY_START: on_start, _events.PY_RESUME: on_resume, _events.PY_THROW: on_throw}


def _on_leaving(monitor: Monitor, takers: Takers, kind: str) -> Callable[[CodeType, int, object], None]:
    scope_of, of_program, failed, states = current.get, is_of_program, monitor.failed, monitor.states

    def on_leaving(code: CodeType, _offset: int, value: object) -> None:
        try:
            state = states.get(id(code))
            if state is not None:
                for trace in takers(state):
                    trace.leave(state, scope_of(), kind, value)
        except RecursionError:
            pass  # the program is nearly out of stack: it goes on, and meets the limit itself
        except Exception as error:
            if of_program(error):
                raise
            failed(error)

    return on_leaving


def _on_raise(monitor: Monitor, takers: Takers) -> Callable[[CodeType, int, BaseException], None]:
    scope_of, of_program, failed, states = current.get, is_of_program, monitor.failed, monitor.states

    def on_raise(code: CodeType, _offset: int, raised: BaseException) -> None:
        try:
            state = states.get(id(code))
            if state is not None:
                for trace in takers(state):
                    if trace.options.exceptions:
                        trace.fails(state, scope_of(), raised)
        except RecursionError:
            pass  # the program is nearly out of stack: it goes on, and meets the limit itself
        except Exception as error:
            if of_program(error):
                raise
            failed(error)

    return on_raise
