"""The one tool of `sys.monitoring` in this process, which all traces share: it turns events on and off.

Line events are on for as few code objects as possible and for as short as possible, since every execution of such code
pays for them, also that for other requests. A code object is *lit* while it has line events:

- Function starts and resumptions are monitored for all code. A start of a library's code is ignored from the second
  time on (DISABLE). Code of own files is registered at its first start, so nothing needs to be searched for.
- If a trace wants a code object whoever runs it, it stays lit.
- If traces want only certain scopes, a code object is lit when it starts or goes on in such a scope. When it then runs
  in another scope, it is put out at its first line there, unless some thread is still in it (`_put_out`).

A start event stays on for all own code: Python 3.13 has no line event for a first line on the `def` line otherwise, nor
if its callback returns DISABLE (https://github.com/python/cpython/issues/155992).
"""

from __future__ import annotations

import sys
from _thread import RLock, get_ident
from types import CodeType, FrameType
from typing import Any

from linetrace import context, guarded
from linetrace.context import Scope
from linetrace.trace import CodeState, Trace

_monitoring = sys.monitoring
_events = _monitoring.events
_getframe, _current_frames = sys._getframe, sys._current_frames
_set_local = _monitoring.set_local_events

TOOL_IDS = (3, 4)
"""Debuggers, coverage, profilers and optimisers have the others."""
TOOL_NAME = "linetrace"
_MOST_CODE = 5_000
_MOST_PATIENCE = 4_096


class NoFreeTool(RuntimeError):
    """Other tools hold all places of `sys.monitoring` that a tracer may take. The text names them."""


class Monitor:
    """See the module. `add` and `remove` may be called from any thread."""

    def __init__(self) -> None:
        self.traces: tuple[Trace, ...] = ()
        self.generation = 0
        self.states: dict[int, CodeState] = {}
        self.tool: int | None = None
        self.wants_calls = False
        """Whether any trace shows calls, or must know when frames start."""
        self._lock = RLock()
        self._starts: guarded.Starts | None = None

    # --- Traces come and go -----------------------------------------------------------------------------------------

    def add(self, trace: Trace) -> None:
        """Arm a trace. Raises NoFreeTool."""
        with self._lock:
            if self.tool is None:
                self._claim()
            trace.on_stop = lambda: self.remove(trace)
            self.traces = (*self.traces, trace)
            self._recompute()
            assert self.tool is not None
            # Starts of library code that were ignored until now may be of this trace's files.
            _monitoring.restart_events()
            for frame in _current_frames().values():
                self._light_stack(frame)
            context.watch(self)

    def remove(self, trace: Trace) -> None:
        """Disarm a trace; nothing is left in `sys.monitoring` after the last."""
        with self._lock:
            if trace not in self.traces:
                return
            self.traces = tuple(each for each in self.traces if each is not trace)
            self._recompute()
            if not self.traces:
                context.watch(None)
                self._release()

    def follow(self, trace: Trace, value: str) -> None:
        """Widen a trace of the next request to all work whose followed id has this value, also work that has begun."""
        with self._lock:
            if trace not in self.traces:
                return
            trace.chooser.follow_other(value)
            self.generation += 1
            self.discover()
            for frame in _current_frames().values():
                self._light_stack(frame)

    def after_fork(self) -> None:
        """In a child process: the lock may be held by a thread that does not exist here."""
        self._lock = RLock()

    def discover(self) -> None:
        """Look at the starts of all functions again, for a while; see guarded.Starts. Called each second."""
        with self._lock:
            if self.tool is not None and self._starts is not None:
                self._starts.discover(self.tool)

    @property
    def only_scopes(self) -> bool:
        """Whether code that runs in no selected scope is nothing to any trace."""
        return not self.wants_calls and all(trace.chooser.by_scope for trace in self.traces)

    def code_with_events(self) -> int:
        """How many code objects have line events now."""
        return sum(state.lit for state in list(self.states.values()))

    def failed(self, error: BaseException) -> None:
        """The tracer itself failed: all traces end, and say why."""
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        place = f" in {frame.tb_frame.f_code.co_qualname}, line {frame.tb_lineno}" if frame else ""
        for trace in self.traces:
            trace.stop(f"the tracer failed: {type(error).__name__}: {error}{place}")

    def _claim(self) -> None:
        for tool in TOOL_IDS:
            try:
                _monitoring.use_tool_id(tool, TOOL_NAME)
            except ValueError:
                continue
            self.tool = tool
            for event, callback in guarded.callbacks(self).items():
                _monitoring.register_callback(tool, event, callback)
            self._starts = guarded.Starts(self)
            return
        holders = " and ".join(f"{_monitoring.get_tool(tool)} ({tool})" for tool in TOOL_IDS)
        raise NoFreeTool(f"the places {TOOL_IDS} of sys.monitoring are held by {holders}")

    def _release(self) -> None:
        tool, self.tool = self.tool, None
        assert tool is not None
        _monitoring.set_events(tool, 0)
        for state in self.states.values():
            _set_local(tool, state.code, 0)
        self.states.clear()
        for event in guarded.EVENTS:
            _monitoring.register_callback(tool, event, None)
        _monitoring.free_tool_id(tool)

    def _recompute(self) -> None:
        """Set all events as the present traces want them."""
        assert self.tool is not None
        self.generation += 1
        options = [trace.options for trace in self.traces]
        self.wants_calls = any(each.calls or each.values for each in options)
        self._lit_events = _events.LINE | _events.PY_START
        if any(each.returns or each.values for each in options):
            self._lit_events |= _events.PY_RETURN
        if any(each.returns for each in options):
            self._lit_events |= _events.PY_YIELD
        everywhere = _events.PY_START | _events.PY_RESUME | _events.PY_THROW
        if any(each.exceptions for each in options):
            everywhere |= _events.RAISE
        for state in list(self.states.values()):
            self._assign(state)
        if self.traces:
            _monitoring.set_events(self.tool, everywhere)
            self.discover()

    # --- Code objects -----------------------------------------------------------------------------------------------

    def register(self, code: CodeType, names: dict[str, Any]) -> CodeState | None:
        """Note a code object that starts; None if no trace wants it. `names` are the globals that it runs with."""
        wanted = [trace for trace in self.traces if code.co_filename in trace.files]
        # A compiled template of Jinja has the file name of the template, and line numbers of its own.
        if not wanted or "__jinja_template__" in names:
            return None
        with self._lock:
            known = self.states.get(id(code))
            if known is not None or self.tool is None:
                return known
            module = names.get("__name__")
            state = CodeState(code, module if type(module) is str else "?")
            if not self._assign(state):
                return None
            if len(self.states) >= _MOST_CODE:
                # A program that makes code without end; the code that it uses is registered again at its next start.
                oldest = self.states.pop(next(iter(self.states)))
                _set_local(self.tool, oldest.code, 0)
            self.states[id(code)] = state
            return state

    def light(self, state: CodeState) -> None:
        """Turn the line events of a code object on."""
        with self._lock:
            if self.tool is not None:
                state.lit = True
                state.foreign, state.patience = 0, 1
                _set_local(self.tool, state.code, self._lit_events)

    def _assign(self, state: CodeState) -> bool:
        """Find out which traces want a code object, and set its events; whether any does."""
        assert self.tool is not None
        wanting = [trace for trace in self.traces if state.file in trace.files]
        state.scoped = tuple(trace for trace in wanting if trace.chooser.by_scope)
        state.always = tuple(
            trace
            for trace in wanting
            if trace not in state.scoped and trace.chooser.wants_code(state.module, state.name)
        )
        for trace in (*state.always, *state.scoped):
            if trace.slot not in state.locations:
                trace.saw(state)
        state.lit = bool(state.always) or (state.lit and bool(state.scoped))
        _set_local(self.tool, state.code, self._lit_events if state.lit else 0)
        return bool(state.always or state.scoped)

    def foreign_line(self, state: CodeState) -> None:
        """A line of a lit code object was executed that no trace wants: put it out if that is worth a look."""
        state.foreign += 1
        if state.foreign < state.patience:
            return
        with self._lock:
            if self.tool is None or state.always or not state.lit:
                return
            # First out, then the look: a thread that enters the code now either waits for the lock or is seen.
            state.lit = False
            state.foreign = 0
            if self._in_use(state.code):
                state.lit = True
                state.patience = min(state.patience * 4, _MOST_PATIENCE)
            else:
                state.patience = 1
                _set_local(self.tool, state.code, 0)

    @staticmethod
    def _in_use(code: CodeType) -> bool:
        """Whether a frame on the stack of any thread executes the code, apart from the one that runs now in this."""
        here = get_ident()
        for thread, top in _current_frames().items():
            frame: FrameType | None = top
            seen = 0
            while frame is not None:
                seen += frame.f_code is code
                if seen > (thread == here):
                    return True
                frame = frame.f_back
        return False

    def _light_stack(self, frame: FrameType | None) -> None:
        """Light the code of own files that is already running in this frame and below."""
        while frame is not None:
            code = frame.f_code
            state = self.states.get(id(code)) or self.register(code, frame.f_globals)
            if state is not None and not state.lit:
                self.light(state)
            frame = frame.f_back

    # --- Scopes -----------------------------------------------------------------------------------------------------

    def takers(self, scope: Scope) -> tuple[Trace, ...]:
        """The traces that want the lines of a scope."""
        if scope.generation != self.generation:
            generation = self.generation
            marks = scope.outermost.marks
            scope.takers = tuple(trace for trace in self.traces if trace in marks or trace.chooser.wants(scope))
            scope.foreign = -1 if scope.takers else generation
            scope.generation = generation
        return scope.takers

    def begun(self, scope: Scope) -> None:
        """See context.Watcher."""
        with guarded.own_errors(self):
            self._offer(scope, begins=True)

    def changed(self, scope: Scope) -> None:
        """See context.Watcher."""
        with guarded.own_errors(self):
            self._offer(scope, begins=False)

    def ended(self, scope: Scope) -> None:
        """See context.Watcher."""
        with guarded.own_errors(self):
            for trace in self.traces:
                if trace in scope.marks or trace.chooser.ends_with(scope):
                    trace.stop("its request was served" if scope.method else "its job has ended")

    def _offer(self, scope: Scope, *, begins: bool) -> None:
        with self._lock:
            for trace in self.traces:
                trace.chooser.offer(scope, begins=begins)
                if trace.chooser.follow(scope):
                    self.generation += 1
                    self.discover()
        if takers := self.takers(scope):
            for trace in takers:
                trace.knows(scope)
            self._light_stack(_getframe(1))


MONITOR = Monitor()
