"""Small programs whose lines the tracer must show as `sys.settrace` does: file name -> text, for each program."""

from __future__ import annotations

Program = dict[str, str]

PROGRAMS: dict[str, Program] = {
    "recursion": {
        "main.py": """\
def fall(n):
    if n == 0:
        return 1
    return n * fall(n - 1)

print(fall(6))
"""
    },
    "generators": {
        "main.py": """\
def count(n):
    for i in range(n):
        got = yield i
        if got:
            print("got", got)

def outer():
    yield from count(2)
    return "done"

g = count(3)
print(next(g), g.send("x"), next(g, None))
print(list(outer()))
h = count(5)
next(h)
try:
    h.throw(KeyError("k"))
except KeyError as error:
    print(repr(error))
h = count(5)
next(h)
h.close()
print(sum(x * x for x in range(4)))
"""
    },
    "comprehensions": {
        "main.py": """\
rows = [[1, 2], [3]]
print([cell for row in rows for cell in row if cell > 1])
print({key: value for key, value in zip("ab", rows)})
print({len(row) for row in rows})
def build(n):
    return [
        (i, j)
        for i in range(n)
        for j in range(i)
        if i != j
    ]
print(build(3))
"""
    },
    "first_lines_on_the_def_line": {
        "main.py": """\
def one(x): return x + 1
two = lambda x: x * 2
class Three: value = one(2)
four = (one(i) for i in range(2))
for i in range(3): one(i); two(i)
print(one(1), two(2), Three.value, list(four))
print([one(i) for i in range(2)], one(5), one(6))
"""
    },
    "decorators": {
        "main.py": """\
import functools

def twice(times):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            for _ in range(times):
                result = function(*args, **kwargs)
            return result
        return wrapper
    return decorate

class Thing:
    def __init__(self):
        self._x = 0

    @property
    def x(self):
        return self._x

    @x.setter
    def x(self, value):
        self._x = value

    @staticmethod
    @twice(2)
    def static(
        a,
        b=3,
    ):
        return (
            a
            + b
        )

    @classmethod
    def make(cls):
        return cls()

thing = Thing.make()
thing.x = 4
print(thing.x, Thing.static(1))
"""
    },
    "asynchronous": {
        "main.py": """\
import asyncio

class Resource:
    async def __aenter__(self):
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_):
        await asyncio.sleep(0)
        return False

async def numbers(n):
    for i in range(n):
        yield i
        await asyncio.sleep(0)

async def work(name, n):
    async with Resource():
        async for i in numbers(n):
            if i == 1:
                continue
    return name

async def cancelled():
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        print("cancelled")
        raise
    finally:
        print("finally")

async def main():
    task = asyncio.create_task(cancelled())
    await asyncio.sleep(0)
    task.cancel()
    print(await asyncio.gather(work("a", 3), work("b", 2), task, return_exceptions=True))
    print([i async for i in numbers(2)])

asyncio.run(main())
"""
    },
    "threads": {
        "main.py": """\
import threading
from concurrent.futures import ThreadPoolExecutor

def work(n):
    total = 0
    for i in range(n):
        total += i
    return total

for n in range(2):
    thread = threading.Thread(target=work, args=(n,))
    thread.start(); thread.join()

with ThreadPoolExecutor(1) as pool:
    print(pool.submit(work, 3).result())
    print(list(pool.map(work, [1, 2])))
"""
    },
    "exceptions": {
        "main.py": """\
class Own(Exception):
    def __str__(self):
        return "own"

def fail(kind):
    try:
        try:
            if kind == "own":
                raise Own()
            if kind == "zero":
                return 1 / 0
            return "fine"
        except ZeroDivisionError as error:
            raise ValueError("chained") from error
        else:
            print("never")
        finally:
            print("inner finally")
    except (Own, ValueError) as error:
        print(type(error).__name__, error, repr(error.__cause__))
        return "handled"

print([fail(kind) for kind in ("own", "zero", "no")])
try:
    raise ExceptionGroup("group", [ValueError(1), TypeError(2)])
except* ValueError as group:
    print(group.exceptions)
except* TypeError as group:
    print(group.exceptions)
for i in range(3):
    try:
        if i == 1:
            continue
        if i == 2:
            break
    finally:
        print("loop", i)
"""
    },
    "with_blocks": {
        "main.py": """\
from contextlib import contextmanager, suppress

@contextmanager
def manager(name):
    print("enter", name)
    try:
        yield name
    finally:
        print("exit", name)

with manager("a") as a:
    print(a)
with suppress(KeyError):
    {}["x"]
with manager("b"), manager("c"):
    pass
def leave_early():
    with manager("d"):
        return 1
print(leave_early())
"""
    },
    "matching": {
        "main.py": """\
from dataclasses import dataclass

@dataclass
class Point:
    x: int
    y: int

def name(value):
    match value:
        case Point(x=0, y=0):
            return "origin"
        case Point(x, y) if x == y:
            return "diagonal"
        case [first, *rest]:
            return f"list of {first} and {len(rest)}"
        case {"kind": str(kind)}:
            return kind
        case 1 | 2:
            return "small"
        case _:
            return "other"

print([name(v) for v in (Point(0, 0), Point(1, 1), [1, 2], {"kind": "k"}, 2, None)])
"""
    },
    "compiled_text": {
        "main.py": """\
import os
exec("print('exec', [i for i in range(2)])")
print(eval("(lambda x: x + 1)(1)"))
here = os.path.abspath(__file__)
code = compile("def made(n):\\n    return n + 1\\n\\nprint(made(1))\\n", here, "exec")
for _ in range(2):
    exec(code, {"__name__": "made_up"})
"""
    },
    "called_from_c": {
        "main.py": """\
import functools
import re

def key(word):
    return len(word)

class Odd:
    def __eq__(self, other):
        return True
    def __hash__(self):
        return 1
    def __iter__(self):
        return iter([1, 2])
    def __del__(self):
        print("deleted")
    def __getattr__(self, name):
        return name

print(sorted(["ccc", "a", "bb"], key=key), max("ab", "c", key=key))
print(re.sub("b", lambda found: found[0] * 2, "abab"))
print(functools.reduce(lambda a, b: a + b, [1, 2, 3]))
odd = Odd()
print(odd in [object()], [*odd], odd.missing, {odd: 1}[odd])
del odd
"""
    },
    "deep_nesting": {
        "main.py": """\
def a(n):
    def b(n):
        class C:
            def d(self, n):
                return [(lambda x: [y + x for y in range(x)])(i) for i in range(n)]
        return C().d(n)
    return b(n)
for i in range(2):
    for j in range(2):
        if i:
            if j:
                while True:
                    print(a(3))
                    break
                else:
                    print("never")
        else:
            pass
"""
    },
    "not_ascii": {
        "main.py": 'größe = "ä€😀"\ndef zähle(wörter):\n    return len(wörter)  # Länge\nprint(zähle(größe))\n'
    },
    "no_newline_at_the_end": {"main.py": "x = 1\nif x:\n    print(x)"},
    "windows_line_ends": {"main.py": "def f(x):\r\n    return x\r\n\r\nprint(f(1))\r\n"},
    "form_feed": {"main.py": "x = 1\n\x0c\ndef f():\n    return '\x0b'\nprint(len(f()))\n"},
    "changed_on_disk": {
        "main.py": """\
import helper
print(helper.first(1))
with open(helper.__file__, "w") as file:
    file.write("# nothing of what it was\\n" * 20)
with open(__file__, "w") as file:
    file.write("# gone\\n" * 20)
print(helper.second(2))
print("end")
""",
        "helper.py": "def first(n):\n    return n\n\ndef second(n):\n    m = n + 1\n    return m\n",
    },
    "patched_open": {
        "main.py": """\
import builtins, io, linecache
def no(*_, **__):
    raise RuntimeError("patched")
builtins.open = io.open = linecache.getline = linecache.getlines = no
import os
os.write = os.write
print("still traced")
"""
    },
    "imports": {
        "main.py": """\
import pack.sub
from pack import other
import queue
print(pack.sub.value, other.f(2), queue.OWN)
""",
        "pack/__init__.py": "name = __name__\n",
        "pack/sub.py": "from . import other\nvalue = other.f(1)\n",
        "pack/other.py": "def f(x):\n    return x + 1\n",
        "queue.py": "OWN = True\n",
    },
    "exit_handlers": {
        "main.py": """\
import atexit
class Late:
    def __del__(self):
        print("late")
late = Late()
@atexit.register
def goodbye():
    print("goodbye")
print("end")
"""
    },
    "statements": {
        "main.py": """\
x = (1,
     2)
assert x, "no"
y = x[0] if x else None
while y < 4:
    y += 1
    if y == 2: continue
    if y == 3: break
else:
    print("never")
del x
global_name = 1
def change():
    global global_name
    global_name += 1
    local = 0
    def inner():
        nonlocal local
        local += 1
    inner()
    return local
print(change(), global_name)
text = f"{change()!r:>4}" f"{y}"
a, *b = 1, 2, 3
print(text, a, b, (walrus := 5), walrus)
type Alias = list[int]
def generic[T](value: T) -> T:
    return value
print(generic(Alias.__value__))
"""
    },
    "one_line_loops": {
        "main.py": """\
n = 3
while n: n -= 1
for i in range(3): n += i
print(n)
"""
    },
}

# Where sys.settrace repeats a line because a loop jumps back to the line that it is on, comprehensions included. Line
# events of sys.monitoring tell only that another line begins.
REPEATED_BY_SETTRACE = {
    "asynchronous",
    "comprehensions",
    "deep_nesting",
    "exceptions",
    "first_lines_on_the_def_line",
    "generators",
    "matching",
    "one_line_loops",
}
