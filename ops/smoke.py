"""The end-to-end test of a site: uploads a file, has it processed, compares the download.

tus 1.0 core over plain HTTP requests, so that what fails is seen and not retried by a client library.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from ops.access import Access
from ops.errors import Exit, Failure

SIZE = 3_000_000
DONE_SECONDS = 120
REQUEST_SECONDS = 75  # longer than the time for which the application holds a request
PAUSE_SECONDS = 0.3
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}


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


class Client:
    """Requests to one site, with its authority and token."""

    def __init__(self, access: Access) -> None:
        self._access = access
        context = ssl.create_default_context(cafile=access.ca_file)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def request(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        """One request. Raises Failure if there is no answer."""
        request = urllib.request.Request(url, data=body, method=method)  # noqa: S310 - https of the inventory
        request.add_header("Authorization", f"Bearer {self._access.token}")
        for name, value in headers.items():
            request.add_header(name, value)
        try:
            with self._opener.open(request, timeout=REQUEST_SECONDS) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())
        except OSError as error:
            raise Failure(f"{method} {url} got no answer: {error}", "See: ./inv status", Exit.UNAVAILABLE) from error

    def expect(
        self, status: int, method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Like `request`, and raises Failure for another status than the one expected."""
        answer = self.request(method, url, body, headers or {})
        if answer.status != status:
            raise Failure(
                f"{method} {url} answered {answer.status} instead of {status}: {answer.text[:300]}",
                "See: ./inv status",
            )
        return answer


def smoke(access: Access) -> dict[str, Any]:
    """Upload, process, download, compare; returns what the site says about the file.

    Raises Failure naming the step that went wrong.
    """
    client = Client(access)
    content = secrets.token_bytes(SIZE)
    sha256 = hashlib.sha256(content).hexdigest()
    name = base64.b64encode(b"smoke-test.bin").decode()
    announced = {"Upload-Length": str(SIZE), "Upload-Metadata": f"filename {name}"}
    created = client.expect(201, "POST", access.tus_endpoint, b"", TUS | announced)
    location = created.headers["Location"]
    half = SIZE // 2
    client.expect(204, "PATCH", location, content[:half], TUS | BYTES | {"Upload-Offset": "0"})
    offset = client.expect(200, "HEAD", location, headers=TUS).headers["Upload-Offset"]
    if offset != str(half):
        raise Failure(f"The site says that it has {offset} of {half} bytes that it acknowledged.")
    client.expect(204, "PATCH", location, content[half:], TUS | BYTES | {"Upload-Offset": offset})
    state = _wait(client, f"{access.url}/api/uploads/{location.rsplit('/', 1)[-1]}")
    if state["sha256"] != sha256:
        raise Failure(f"The worker saw a file with SHA-256 {state['sha256']}; {sha256} was sent.")
    downloaded = client.expect(200, "GET", state["content_url"]).body
    if downloaded != content:
        raise Failure("The download differs from what was sent.")
    for result in state["results"]:
        body = client.expect(200, "GET", result["url"]).body
        if hashlib.sha256(body).hexdigest() != result["sha256"]:
            raise Failure(f"The result {result['name']} differs from its checksum.")
    if not state["results"]:
        raise Failure("The file was processed without a result.")
    return state


def _wait(client: Client, url: str) -> dict[str, Any]:
    deadline = time.monotonic() + DONE_SECONDS
    while True:
        state: dict[str, Any] = json.loads(client.expect(200, "GET", url).body)
        if state["state"] == "done":
            return state
        if state["state"] not in {"receiving", "queued", "processing"}:
            raise Failure(f"The file's processing ended as '{state['state']}'.", f"See {url}")
        if time.monotonic() > deadline:
            raise Failure(
                f"The file is still '{state['state']}' after {DONE_SECONDS} s.", "Are the workers up? ./inv status"
            )
        time.sleep(PAUSE_SECONDS)
