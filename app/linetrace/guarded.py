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
ENOUGH_STARTS = 1_000
"""Starts of known code in a row, after which starts are only looked at for selected scopes."""
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
        _events.PY_RESUME: _on_resume(monitor, takers),
        _events.PY_THROW: _on_throw(monitor, takers),
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
        if chosen == state.scoped and not state.always:
            return chosen
        return (*state.always, *(trace for trace in chosen if trace in state.scoped))

    return takers


def _on_line(monitor: Monitor, takers: Takers) -> Callable[[CodeType, int], None]:
    scope_of, of_program, failed, states = current.get, is_of_program, monitor.failed, monitor.states

    def on_line(code: CodeType, number: int) -> None:
        try:
            state = states.get(id(code))
            if state is None:
                return
            taking = takers(state) if state.scoped else state.always
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


def _enters(monitor: Monitor, takers: Takers) -> Callable[[CodeType], CodeState | None]:
    getframe, states = sys._getframe, monitor.states

    def enters(code: CodeType) -> CodeState | None:
        """Register and light code that runs now in the frame two below, if it is wanted."""
        state = states.get(id(code))
        if state is None:
            state = monitor.register(code, getframe(2).f_globals)
        if state is not None and not state.lit and takers(state):
            monitor.light(state)
        return state

    return enters


class Starts:
    """The callbacks of function starts: what other requests pay for each call of an own function while one is traced.

    The thorough one registers own code and turns the starts of library code off. When it has met nothing new for
    ENOUGH_STARTS, the quick one takes its place, which only looks whether the scope is selected, and costs half. The
    thorough one comes back for a while each second, since a program may run other libraries later.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._enters = _enters(monitor, _takers(monitor))

    def discover(self, tool: int) -> None:
        """Make the thorough callback the one in force, for the present traces."""
        monitor, enters, known = self._monitor, self._enters, 0
        scope_of, disable, takers = current.get, sys.monitoring.DISABLE, _takers(self._monitor)
        of_program, failed = is_of_program, monitor.failed
        generation, register, event = monitor.generation, sys.monitoring.register_callback, _events.PY_START
        quick_allowed, wants_calls = monitor.only_scopes, monitor.wants_calls

        def thorough(code: CodeType, _offset: int) -> object:
            nonlocal known
            try:
                state = enters(code)
                if state is None:
                    known = 0
                    return disable
                if state.lit and wants_calls:
                    for trace in takers(state):
                        trace.call(state, scope_of())
                known += 1
                if known > ENOUGH_STARTS and quick_allowed and monitor.tool == tool:
                    known = 0
                    register(tool, event, quick)
            except RecursionError:
                pass  # the program is nearly out of stack: it goes on, and meets the limit itself
            except Exception as error:
                if of_program(error):
                    raise
                failed(error)
            return None

        def quick(code: CodeType, _offset: int) -> object:
            scope = scope_of()
            if scope is None or scope.foreign == generation:
                return None
            try:
                return disable if enters(code) is None else None
            except RecursionError:
                pass
            except Exception as error:
                if of_program(error):
                    raise
                failed(error)
            return None

        register(tool, event, thorough)


def _on_resume(monitor: Monitor, takers: Takers) -> Callable[[CodeType, int], object]:
    enters, disable = _enters(monitor, takers), sys.monitoring.DISABLE
    of_program, failed = is_of_program, monitor.failed

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

    return on_resume


def _on_throw(monitor: Monitor, takers: Takers) -> Callable[[CodeType, int, BaseException], None]:
    enters, of_program, failed = _enters(monitor, takers), is_of_program, monitor.failed

    def on_throw(code: CodeType, _offset: int, _error: BaseException) -> None:
        try:
            enters(code)
        except RecursionError:
            pass  # the program is nearly out of stack: it goes on, and meets the limit itself
        except Exception as error:
            if of_program(error):
                raise
            failed(error)

    return on_throw


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
