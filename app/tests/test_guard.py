"""What only reads outlasts a planned switchover of the database."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request
from starlette.responses import Response

from longhaul.database import DatabaseUnavailable
from longhaul.web.accounts import Accounts, Identity
from longhaul.web.guard import Guard, as_json, trouble_of

ANN = Identity(owner="ann", mark="")


class Known(Accounts):
    """Everybody is ann."""

    def __init__(self) -> None:
        pass

    def identify(self, request: Request) -> Identity:
        return ANN

    def renew(self, request: Request, response: Response, identity: Identity) -> None:
        pass


class Away:
    """An endpoint whose database is away at its first `failures` tries."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.tries = 0

    async def __call__(self, request: Request, identity: Identity) -> Response:
        self.tries += 1
        if self.tries <= self.failures:
            raise DatabaseUnavailable("being switched over")
        return Response("content")


def answered(endpoint: Away, method: str, patience: float) -> int:
    handler = Guard(Known(), as_json, patience=patience).api(endpoint)
    scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": []}
    return asyncio.run(handler(Request(scope))).status_code


@pytest.mark.parametrize(
    ("method", "patience", "status", "tries"),
    [("GET", 30, 200, 3), ("HEAD", 30, 200, 3), ("GET", 0, 503, 1), ("POST", 30, 503, 1), ("DELETE", 30, 503, 1)],
)
def test_only_what_changes_nothing_is_tried_again(method: str, patience: float, status: int, tries: int) -> None:
    endpoint = Away(failures=2)
    assert answered(endpoint, method, patience) == status
    assert endpoint.tries == tries


def test_people_are_told_when_it_lasts() -> None:
    endpoint = Away(failures=10**6)
    assert answered(endpoint, "GET", 0.5) == 503
    assert 1 < endpoint.tries < 10


def test_trouble_of_the_database_is_told_kindly() -> None:
    trouble = trouble_of(DatabaseUnavailable("no connection to 10.0.0.1"))
    assert trouble is not None
    assert trouble.status == 503
    assert trouble.headers["retry-after"]
    assert "Nothing is lost" in trouble.text
    assert "10.0.0.1" not in trouble.text
