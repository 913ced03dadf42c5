"""The smoke test of a site or of one of its hosts: uploads a file, has it processed, compares the download.

A deployment runs it on the host that it has just switched, against that host's own web service. It sends plain HTTP
requests (tus 1.0 core), because a client library would retry and so hide a failure.

Takes the environment variable LONGHAUL_SMOKE_TEST: the arguments of `Target` and of `smoke_test` as one JSON object.
(A command line would show the token in the list of processes.) Prints what the site says about the file, as JSON. Exit
code 1 with the reason on standard error if the test fails, 2 if the site did not answer at all.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import secrets
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

SIZE = 3_000_000
DONE_SECONDS = 120
REQUEST_SECONDS = 75  # longer than the time for which the application holds a request
PAUSE_SECONDS = 0.3
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}
FAILED, NO_ANSWER = 1, 2


class SmokeTestError(Exception):
    """The site does not do what it should; the message says what was requested and what was answered."""


class NoAnswerError(SmokeTestError):
    """Nobody answered."""


@dataclass(frozen=True)
class Target:
    """The site or host to test: its URL without a slash at the end, the PEM file of the CA to trust, and a token."""

    url: str
    ca_file: str
    token: str


@dataclass(frozen=True)
class Answer:
    """Status, headers and body of a response."""

    status: int
    headers: Any
    body: bytes

    @property
    def text(self) -> str:
        """The body, read as UTF-8."""
        return self.body.decode(errors="replace")


class Session:
    """Requests to one target, with its authority and token, past any proxy that is set for this machine."""

    def __init__(self, target: Target) -> None:
        self._token = target.token
        context = ssl.create_default_context(cafile=target.ca_file)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def request(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        """One request. Raises NoAnswerError."""
        request = urllib.request.Request(url, data=body, method=method)  # noqa: S310 - https of the inventory
        request.add_header("Authorization", f"Bearer {self._token}")
        for name, value in headers.items():
            request.add_header(name, value)
        try:
            with self._opener.open(request, timeout=REQUEST_SECONDS) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())
        except OSError as error:
            raise NoAnswerError(f"{method} {url} got no answer: {error}") from error

    def expect(
        self, status: int, method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Like `request`, and raises SmokeTestError for another status than the one expected."""
        answer = self.request(method, url, body, headers or {})
        if answer.status != status:
            said = " ".join(answer.text.split())[:200]
            raise SmokeTestError(f"{method} {url} answered {answer.status} instead of {status}: {said}")
        return answer


def smoke_test(target: Target, *, worker: str = "", release: str = "", processors: str = "") -> dict[str, Any]:
    """Upload, process, download, compare, delete; returns what the site said about the file.

    With `worker`, only that worker processes the file. With `release`, the worker must run that release; with
    `processors`, the scripts of that version. Raises SmokeTestError that names the step which went wrong.
    """
    client = Session(target)
    content = secrets.token_bytes(SIZE)
    metadata = {"filename": "smoke-test.bin", **({"worker": worker} if worker else {})}
    encoded = {name: base64.b64encode(text.encode()).decode() for name, text in metadata.items()}
    announced = {
        "Upload-Length": str(SIZE),
        "Upload-Metadata": ",".join(f"{name} {value}" for name, value in encoded.items()),
    }
    created = client.expect(201, "POST", f"{target.url}/files/", b"", TUS | announced)
    location = _at(target, created.headers["Location"])
    try:
        _send(client, location, content)
        state = _wait(client, f"{target.url}/api/uploads/{location.rsplit('/', 1)[-1]}")
        _compare(client, target, state, content)
    finally:
        # If the deletion fails too, the failure above is the one to show.
        with contextlib.suppress(SmokeTestError):
            client.request("DELETE", location, None, TUS)
    processed_by = state["processed_by"] or {}
    if release and processed_by.get("release") != release:
        raise SmokeTestError(f"The file was processed by {processed_by}, not by a worker of the release {release}.")
    if processors and processed_by.get("processors") != processors:
        raise SmokeTestError(f"The file was processed by {processed_by}, not by the processors {processors}.")
    return state


def _at(target: Target, url: str) -> str:
    """The same path on the target: the site's own URLs lead through its load balancers."""
    return target.url + urllib.parse.urlsplit(url).path


def _send(client: Session, location: str, content: bytes) -> None:
    """Send the file in two parts, so that the offset between them is tested too."""
    half = len(content) // 2
    client.expect(204, "PATCH", location, content[:half], TUS | BYTES | {"Upload-Offset": "0"})
    offset = client.expect(200, "HEAD", location, headers=TUS).headers["Upload-Offset"]
    if offset != str(half):
        raise SmokeTestError(f"The site says that it has {offset} of {half} bytes that it acknowledged.")
    client.expect(204, "PATCH", location, content[half:], TUS | BYTES | {"Upload-Offset": offset})


def _wait(client: Session, url: str) -> dict[str, Any]:
    deadline = time.monotonic() + DONE_SECONDS
    while True:
        state: dict[str, Any] = json.loads(client.expect(200, "GET", url).body)
        if state["state"] == "done":
            return state
        if state["state"] not in {"receiving", "queued", "processing"}:
            raise SmokeTestError(f"The file's processing ended as '{state['state']}'; see {url}")
        if time.monotonic() > deadline:
            raise SmokeTestError(f"The file is still '{state['state']}' after {DONE_SECONDS} s; are the workers up?")
        time.sleep(PAUSE_SECONDS)


def _compare(client: Session, target: Target, state: dict[str, Any], content: bytes) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    if state["sha256"] != sha256:
        raise SmokeTestError(f"The worker saw a file with SHA-256 {state['sha256']}; {sha256} was sent.")
    if client.expect(200, "GET", _at(target, state["content_url"])).body != content:
        raise SmokeTestError("The download differs from what was sent.")
    if not state["results"]:
        raise SmokeTestError("The file was processed without a result.")
    for result in state["results"]:
        body = client.expect(200, "GET", _at(target, result["url"])).body
        if hashlib.sha256(body).hexdigest() != result["sha256"]:
            raise SmokeTestError(f"The result {result['name']} differs from its checksum.")


def main() -> int:
    """Run the smoke test that the environment describes."""
    given = json.loads(os.environ["LONGHAUL_SMOKE_TEST"])
    target = Target(given.pop("url"), given.pop("ca_file"), given.pop("token"))
    try:
        state = smoke_test(target, **given)
    except SmokeTestError as error:
        sys.stderr.write(f"{error}\n")
        return NO_ANSWER if isinstance(error, NoAnswerError) else FAILED
    sys.stdout.write(json.dumps(state) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
