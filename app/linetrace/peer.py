"""The two ends of a control connection: the program that can be traced, and who asks for it."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Program:
    """What a listening process says of itself: its name, the folders of its own files, and how it writes to syslog."""

    name: str
    folders: tuple[str, ...]
    syslog: Mapping[str, str] = field(default_factory=dict)


def may_control(connection: socket.socket) -> bool:
    """Whether the other end is of this process's user or root."""
    return peer(connection)[1] in (0, os.geteuid())


def peer(connection: socket.socket) -> tuple[int, int]:
    """(process id, user id) of the other end, as they were when it connected."""
    pid, user, _group = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, user
