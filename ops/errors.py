"""The one exception that tasks show to a user, and the exit codes that the documentation lists."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every task; the values above 2 are those of sysexits.h."""

    FAILED = 1
    DIFFERENT = 2
    USAGE = 64
    BAD_INPUT = 65
    UNAVAILABLE = 69
    TEMPORARY = 75
    NO_PERMISSION = 77
    BAD_CONFIGURATION = 78


class Failure(Exception):
    """Something went wrong that the user can act on.

    `message` says what happened, `hint` what to do about it; the task prints both without a traceback and ends
    with `code`.
    """

    def __init__(self, message: str, hint: str = "", code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message
