"""How much a trace may show, and what it shows beside lines. Limits are always on and have ceilings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

QUEUED_RECORDS = 20_000
"""Records that wait for the drain thread; what comes while it is full is dropped. About 250 bytes each, so 5 MB; 1 KB
and 20 MB if they come from a child process.
"""

LONGEST_TEXT = 200
"""Characters of a value that are shown."""


class LimitError(ValueError):
    """A limit or option that is not allowed. The text names it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Each is above 0: lines in any one second, lines in all, seconds, and how often one location is shown.

    Lines beyond `per_second` are counted, not shown. The trace ends at `lines` and at `seconds`. A location that was
    shown `per_location` times is only counted from then on.
    """

    per_second: int = 20_000
    lines: int = 100_000
    seconds: float = 30.0
    per_location: int = 100

    def __post_init__(self) -> None:
        for name, ceiling in CEILINGS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= ceiling:
                raise LimitError(f"{name} is above 0 and at most {ceiling:,}, not {value!r}")
            if name != "seconds" and not isinstance(value, int):
                raise LimitError(f"{name} is a whole number, not {value!r}")

    @classmethod
    def of_script(cls) -> Limits:
        """For a script that its user traces from the start: nobody else pays, so nearly all is shown."""
        return cls(per_second=1_000_000, lines=100_000_000, seconds=7 * 86_400.0, per_location=1_000)

    @classmethod
    def from_json(cls, values: object) -> Limits:
        """The limits of a message; what it leaves out has its default. Raises LimitError."""
        return cls(**_known(cls, values, "limits"))

    def as_json(self) -> dict[str, Any]:
        """The limits as a message holds them."""
        return asdict(self)


CEILINGS: dict[str, int] = {
    "per_second": 1_000_000,
    "lines": 100_000_000,
    "seconds": 7 * 86_400,
    "per_location": 100_000_000,
}


@dataclass(frozen=True, slots=True)
class Options:
    """What is shown beside lines.

    `values`: patterns of names of local variables whose values are shown when they change. `allow_repr`: patterns of
    `module.Class` whose `repr` may be called; it is the program's code, so by default only built-in types are shown.
    `secrets`: patterns of further names whose values are masked. `calls`: depth and arguments. `timing`: the time since
    the line before of the same thread and scope.
    """

    values: tuple[str, ...] = ()
    allow_repr: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    calls: bool = False
    returns: bool = False
    exceptions: bool = False
    timing: bool = False

    @classmethod
    def from_json(cls, values: object) -> Options:
        """The options of a message; what it leaves out is off. Raises LimitError."""
        given = _known(cls, values, "options")
        for name, value in given.items():
            if name in ("values", "allow_repr", "secrets"):
                if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                    raise LimitError(f"the option {name} is a list of texts")
                given[name] = tuple(value)
            elif not isinstance(value, bool):
                raise LimitError(f"the option {name} is true or false")
        return cls(**given)

    def as_json(self) -> dict[str, Any]:
        """The options as a message holds them, without those that are off."""
        return {name: value for name, value in asdict(self).items() if value}


def _known(kind: type[Limits] | type[Options], values: object, what: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise LimitError(f"{what} are an object")
    unknown = set(values) - {field.name for field in fields(kind)}
    if unknown:
        raise LimitError(f"{what} have no {', '.join(sorted(map(str, unknown)))}")
    return dict(values)
