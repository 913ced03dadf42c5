"""The smoke test of a site, run from this machine through the virtual IP, as a user's client would connect."""

from __future__ import annotations

from typing import Any

from ops.access import Access
from ops.errors import Exit, Failure
from ops.on_host.smoke_test import NoAnswerError, SmokeTestError, Target, smoke_test


def prove(access: Access, *, worker: str = "", release: str = "") -> dict[str, Any]:
    """Upload, process, download, compare; returns what the site says about the file.

    With `worker`, only that worker processes the file; with `release`, the worker must run that release. Raises Failure
    that names the step which went wrong.
    """
    try:
        return smoke_test(Target(access.url, access.ca_file, access.token), worker=worker, release=release)
    except NoAnswerError as error:
        raise Failure(str(error), "See: ./inv status", Exit.UNAVAILABLE) from error
    except SmokeTestError as error:
        raise Failure(str(error), "See: ./inv status") from error
