"""The users that a test has at work while something happens to the site, and what must be true for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ops.access import Access
from ops.load.measure import RequestKind
from ops.load.profile import KB, PROFILES, Group, Profile
from ops.load.run import Load, unique
from tests.support.site import Site

RESUMED_SECONDS = 5
"""From the end of a PATCH that the site handed over to the offset at which the client goes on."""
FINISH_SECONDS = 300


def users_for(seconds: int) -> Profile:
    """As many clients as in the profile `deploy`, with files that they send in so many seconds if nothing happens.

    Slower than there, where they take half of a small machine. The soak has the profile itself.
    """
    rates = ((3, 150 * KB), (9, 50 * KB), (8, 5 * KB))
    groups = tuple(Group(clients, rate * seconds, rate=rate) for clients, rate in rates)
    return replace(PROFILES["deploy"], groups=groups, pages_per_second=20)


@contextmanager
def under_load(site: Site, profile: Profile) -> Iterator[Load]:
    """Users upload and look at pages while the block runs, and finish after it.

    Nothing of theirs may fail, and every file must arrive whole and have been created once.
    """
    name = unique()
    with Load(Access(**site.access), profile, name=name) as load:
        yield load
        load.hurry()
        measure = load.wait(FINISH_SECONDS)
        created = Counter(row[0] for row in site.sql("select filename from uploads") if f"-{name}-" in row[0])
    assert not measure.failed, f"{measure.failed} failures: {measure.failures[:5]}"
    assert measure.done == profile.clients
    assert len(created) == created.total() == profile.clients, f"not every file was created once: {created}"
    assert max(measure.resumed_after, default=0) <= RESUMED_SECONDS, sorted(measure.resumed_after)[-5:]
    site.measured.append(
        f"{profile.clients} uploads and {profile.pages_per_second:g} pages/s for {measure.now():.0f} s: "
        f"{len(measure.interruptions)} interruptions, resumed within {max(measure.resumed_after, default=0):.1f} s, "
        f"{measure.sent_again / 1e6:.1f} MB sent again, {measure.failed} failures, "
        f"slowest page {measure.latency(RequestKind.PAGE).slowest:.1f} s"
    )
