"""The trace of the processes of one host: a command that runs there for as long as it is fed from here.

If this machine, this program or the line between them fails, nothing feeds the command: it ends the trace after
FED_SECONDS. If it fails itself, the processes notice that at once.
"""

from __future__ import annotations

import json
import queue
import shlex
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ops import remote
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.trace.order import FOLDERS, Order

FED_SECONDS = 4
FEED_SECONDS = 1.0
PYTHON = "/opt/longhaul/current/venv/bin/python"
# -I: not the user's own files; -B: a release is not written to.
ATTACH = ("sudo", "-n", PYTHON, "-IB", "-m", "linetrace", "attach")
READ_BYTES = 1 << 18

type Event = tuple[HostTrace, dict[str, Any] | Failure | None]
"""A host, and what is new: a message of one of its processes, why it cannot be traced, or None: it has ended."""


def places(host: Host, groups: Sequence[str]) -> list[str]:
    """The folders in which the host's processes listen that belong to these groups."""
    return [FOLDERS[group] for group in groups if group in host.groups]


class HostTrace:
    """Runs in threads of its own from the beginning, and puts events into a queue.

    `began` and `heard` are when it was started and when a message came last (0: never), of the monotonic clock.
    """

    def __init__(
        self,
        environment: Environment,
        host: Host,
        order: Order,
        about: Sequence[str],
        events: queue.Queue[Event],
    ) -> None:
        self.host = host
        self._environment = environment
        self._line = shlex.join(
            [
                *ATTACH,
                *("--json", f"--while-fed={FED_SECONDS}", "--to=client,syslog"),
                *about,
                *order.words,
                *places(host, order.groups),
            ]
        )
        self.began = time.monotonic()
        self.heard = 0.0
        self._events = events
        self._ended = threading.Event()
        self._channel: Any = None
        self._unsent = ""
        self._stopped = False
        self._lock = threading.Lock()
        for work in (self._run, self._feed):
            threading.Thread(target=work, name=f"trace of {host.name}", daemon=True).start()

    def follow(self, upload: str) -> None:
        """Have the processes follow this upload, as soon as the command runs."""
        self._say(f"follow {upload}\n")

    def _feed(self) -> None:
        """Keep the command alive. In a thread of its own: printing may take long, or be stopped by the terminal."""
        while not self._ended.wait(FEED_SECONDS):
            self._say("\n")

    def _say(self, text: str) -> None:
        with self._lock, suppress(OSError, EOFError):
            if self._channel is None:
                self._unsent += text.lstrip("\n")
            elif not self._stopped:
                self._channel.sendall(text.encode())

    def stop(self) -> None:
        """Let the command end the trace; its last messages still come."""
        with self._lock, suppress(OSError, EOFError):
            self._stopped = True
            if self._channel is not None:
                self._channel.shutdown_write()

    def _run(self) -> None:
        try:
            with self._environment.connection(self.host) as connection:
                connection.open()
                channel = connection.client.get_transport().open_session()
                channel.exec_command(self._line)
                with self._lock:
                    self._channel = channel
                    channel.sendall(self._unsent.encode())
                    if self._stopped:
                        channel.shutdown_write()
                messages = self._read(channel)
                errors = channel.makefile_stderr("rb").read().decode(errors="replace").strip()
                code = channel.recv_exit_status()
            if messages == 0 and code != 0:
                raise remote.NoAnswer(self.host, _explained(errors) or f"exit code {code}", Exit.FAILED)
        except Failure as failure:
            self._events.put((self, failure))
        except Exception as error:  # noqa: BLE001  # whatever SSH raises: this host cannot be asked
            reason = str(error) or type(error).__name__
            self._events.put((self, remote.NoAnswer(self.host, reason, Exit.UNAVAILABLE)))
        finally:
            self._ended.set()
            self._events.put((self, None))

    def _read(self, channel: Any) -> int:
        """Put all messages into the queue; returns how many there were."""
        count, waiting = 0, b""
        while data := channel.recv(READ_BYTES):
            self.heard = time.monotonic()
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                self._events.put((self, json.loads(line)))
                count += 1
        return count


def _explained(errors: str) -> str:
    if PYTHON in errors and "not found" in errors:
        return "no release is installed there"
    if "No module named linetrace" in errors:
        return "the release that is installed there has no tracer yet: deploy a newer one"
    return errors[-500:]


def armed(environment: Environment, host: Host, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Process -> what is armed in it, as linetrace/control.py describes `status`; with `error` if it does not say so.

    Raises NoAnswer.
    """
    command = shlex.join([*ATTACH, "--status", *places(host, groups)])
    said = remote.run(environment, host, command)
    if not said.stdout.startswith("{"):
        raise remote.NoAnswer(host, _explained(said.stderr.strip()) or f"exit code {said.return_code}", Exit.FAILED)
    found: dict[str, dict[str, Any]] = json.loads(said.stdout)
    return found
