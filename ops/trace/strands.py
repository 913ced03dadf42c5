"""Finds out which call a recorded line belongs to. A strand is what one thread does for one request or job."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass, field
from typing import NamedTuple

_ENDLESS = 1 << 30
_NAMELESS: dict[type[ast.AST], str] = {ast.Lambda: "<lambda>", ast.GeneratorExp: "<genexpr>"}


class Function(NamedTuple):
    """A function or class of a source file: its first line, with decorators, its last line, and its name."""

    first: int
    last: int
    name: str


_MODULE = Function(0, _ENDLESS, "<module>")


class Functions:
    """The functions and classes of one source file, outer ones first. None if the text is not Python, or empty."""

    def __init__(self, text: str) -> None:
        self.all: list[Function] = []
        self._known = False
        self._executing: dict[int, Function] = {}
        self._firsts: set[int] = set()
        self._lasts: dict[tuple[int, str], int] = {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # those about the traced program's strings
                self._walk(ast.parse(text), "")
            self._known = bool(text)
        except (SyntaxError, ValueError, RecursionError):
            return

    def begins_at(self, number: int) -> bool:
        """Whether a function or class begins in the line."""
        return number in self._firsts

    def last_line(self, number: int, name: str) -> int:
        """The last line of the code with this name that begins in the line, as far as it is known."""
        if name == "<module>" or not self._known:
            return _ENDLESS
        return self._lasts.get((number, name), number)

    def executing(self, number: int) -> Function:
        """The function that executes the line. For a `def` that is the one around it; the module if there is none."""
        return self._executing.get(number, _MODULE)

    def _walk(self, tree: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(tree):
            inner = prefix
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                function = Function(first, node.end_lineno or first, prefix + node.name)
                self.all.append(function)
                self._firsts.add(first)
                self._lasts[first, node.name] = function.last
                body = max(node.body[0].lineno, node.lineno + 1)
                self._executing.update(dict.fromkeys(range(body, function.last + 1), function))
                inner = f"{prefix}{node.name}."
            elif isinstance(node, ast.Lambda | ast.GeneratorExp):
                self._lasts[node.lineno, _NAMELESS[type(node)]] = node.end_lineno or node.lineno
            self._walk(node, inner)


@dataclass(slots=True)
class Frame:
    """A call that has not ended. `steps` has the latest step of each of its (file, line)."""

    depth: int
    name: str
    file: str
    first: int
    last: int
    steps: dict[tuple[str, int], int] = field(default_factory=dict)

    def contains(self, file: str, number: int, function: Function) -> bool:
        """Whether the line, which this function executes, may be of this call and not of one inside it."""
        return self.file == file and self.first <= number <= self.last and function.first <= self.first


class Strand:
    """The stack of calls, as far as the recording tells it.

    Each recorded call tells its depth. That a call has ended is recorded on request only, and never if an exception
    ended it. It then shows by the next line, which is in a function further down the stack.
    """

    def __init__(self, depth: int, *, calls: bool) -> None:
        self._calls = calls
        self._frames = [Frame(depth - 1, "", "", 0, 0)]

    @property
    def depth(self) -> int:
        """The depth of the call that runs."""
        return self._frames[-1].depth

    def enter(self, depth: int, name: str, file: str, number: int, functions: Functions) -> None:
        """A call of this depth begins, at the first line of its code."""
        while len(self._frames) > 1 and self.depth >= depth:
            self._frames.pop()
        first = 0 if name == "<module>" else number
        self._frames.append(Frame(depth, name, file, first, functions.last_line(number, name)))

    def move(self, file: str, number: int, functions: Functions) -> None:
        """Something happens in this line: calls above that of the line have ended."""
        if not self._calls:
            return
        function = functions.executing(number)
        for index in range(len(self._frames) - 1, -1, -1):
            if self._frames[index].contains(file, number, function):
                del self._frames[index + 1 :]
                return
        # A generator that goes on, or a call that began before the trace.
        name = function.name.rpartition(".")[2]
        self._frames.append(Frame(self.depth + 1, name, file, function.first, function.last))

    def leave(self, name: str) -> None:
        """The call of this name ends, or yields. Nothing ends for a generator that went on without being known."""
        if self._frames[-1].name == name:
            self.unwind()

    def unwind(self) -> None:
        """The call that runs ends."""
        if len(self._frames) > 1:
            self._frames.pop()

    def note(self, file: str, number: int, step: int) -> None:
        """The line was executed by the call that runs, as this step."""
        self._frames[-1].steps[file, number] = step

    def step_at(self, file: str, number: int) -> int | None:
        """The latest step of a line, of the innermost call that has executed it."""
        for frame in reversed(self._frames):
            step = frame.steps.get((file, number))
            if step is not None:
                return step
        return None
