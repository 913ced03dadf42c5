"""The load profiles: which clients upload what, and how fast; in bytes, bytes per second and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from ops.errors import Exit, Failure

KB, MB, GB = 1_000, 1_000_000, 1_000_000_000
FULL_SPEED = 0


@dataclass(frozen=True)
class Group:
    """`clients` that upload one file of `size` each, all at once, no faster than `rate`.

    While uploading, each client pauses `stalls` times and breaks its connection `cuts` times.
    """

    clients: int
    size: int
    rate: int = FULL_SPEED
    stalls: int = 0
    cuts: int = 0


@dataclass(frozen=True)
class Profile:
    """Groups of clients that upload, and the page requests meanwhile; `seconds` is the limit of the whole load."""

    about: str
    groups: tuple[Group, ...]
    pages_per_second: float
    seconds: int

    @property
    def clients(self) -> int:
        """The number of clients that upload."""
        return sum(group.clients for group in self.groups)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(group.clients * group.size for group in self.groups)


PROFILES = {
    "quick": Profile(
        "a quick check that everything works, within a minute",
        (
            Group(2, 50 * MB, cuts=1),
            Group(2, 1500 * KB, rate=50 * KB, cuts=1),
            Group(1, 150 * KB, rate=5 * KB, stalls=1),
        ),
        pages_per_second=10,
        seconds=180,
    ),
    "usual": Profile(
        "a usual hour in minutes: five large files at once, and some users on slow lines",
        (
            Group(2, 250 * MB),
            Group(2, 500 * MB, cuts=1),
            Group(1, 1 * GB),
            Group(3, 5 * MB, rate=50 * KB, stalls=1, cuts=1),
            Group(2, 500 * KB, rate=5 * KB, stalls=1, cuts=1),
        ),
        pages_per_second=20,
        seconds=900,
    ),
    "slow": Profile(
        "two hundred users on slow lines that stall and break",
        (
            Group(150, 600 * KB, rate=5 * KB, stalls=1, cuts=1),
            Group(50, 6 * MB, rate=50 * KB, stalls=1, cuts=2),
        ),
        pages_per_second=5,
        seconds=900,
    ),
    "deploy": Profile(
        "a load that a deployment must not disturb: three large files, seventeen slow ones, and busy pages",
        (
            # Runs for a quarter of an hour: longer than a deployment and a rollback take on a small machine.
            Group(3, 1 * GB, rate=1 * MB),
            Group(9, 50 * MB, rate=50 * KB),
            Group(8, 5 * MB, rate=5 * KB),
        ),
        pages_per_second=50,
        seconds=1800,
    ),
}


def named(name: str) -> Profile:
    """A profile by its name. Raises Failure for one that is not there."""
    if name not in PROFILES:
        known = "; ".join(f"{known} ({profile.about})" for known, profile in PROFILES.items())
        raise Failure(f"There is no load profile '{name}'.", f"Profiles: {known}.", Exit.USAGE)
    return PROFILES[name]
