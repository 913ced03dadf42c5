"""The module that tests of live traces run."""

from __future__ import annotations

BUSY = """\
import threading, time

def work(n):
    total = 0
    for i in range(n):
        total += i
    return total

def other(n):
    return n + 1

async def step(event, n):
    got = work(n)
    await event.wait()
    got += 1
    return got

def spin(stop, ready):
    while not stop.is_set():
        ready.set()
        time.sleep(0.001)

def numbers():
    yield 1
    yield 2
"""
WORK = [4, 5, 6, 5, 7]
"""The lines of `work(1)`."""
