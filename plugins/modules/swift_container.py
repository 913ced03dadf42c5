#!/usr/bin/python3
"""Ansible module: creates a container in OpenStack Swift, and proves that objects can be written, read and deleted."""

from __future__ import annotations

import hashlib
import os
import ssl
import time
from collections.abc import Mapping
from http.client import HTTPException, HTTPMessage, HTTPSConnection
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: swift_container
short_description: Create a Swift container and use it
description:
  - Logs in at one proxy (TempAuth), creates the container if it is missing, then writes, reads and deletes an object
    through the same proxy. Retries until the time is over, because services that just started may not answer yet.
  - In check mode only looks whether the container is there; a proxy that does not answer counts as a change.
options:
  url:
    description: The proxy, without a path.
    type: str
    required: true
  user:
    description: TempAuth user, C(account:user).
    type: str
    required: true
  key:
    description: The user's key.
    type: str
    required: true
  container:
    description: Name of the container.
    type: str
    required: true
  test_object:
    description: Name of the object that is written, read and deleted.
    type: str
    required: true
  ca_file:
    description: Certificate of the authority that signed the proxy's certificate.
    type: path
    default: /etc/longhaul/pki/ca.crt
  timeout:
    description: Longest time for everything, in seconds.
    type: int
    default: 60
author: [The Longhaul authors]
"""

EXAMPLES = r"""
- name: Create the container
  swift_container:
    url: https://data1:8443
    user: files:app
    key: "{{ storage_app_key }}"
    container: longhaul
    test_object: test/data1
"""

RETURN = r"""
seconds:
  description: How long the PUT of the test object took at the last try, in seconds.
  type: float
  returned: not in check mode
"""

PROBE_BYTES = 65536
# Time limit of one request: longer than a proxy waits for a storage host that does not answer.
ANSWER_SECONDS = 20


class UnusableError(Exception):
    """The proxy gave another answer than expected."""


class Proxy:
    """One proxy, logged in."""

    def __init__(self, url: str, user: str, key: str, ca_file: str) -> None:
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._headers: Mapping[str, str] = {}
        self._url = url
        login = {"X-Auth-User": user, "X-Auth-Key": key}
        _, _, headers = self.ask("GET", "/auth/v1.0", login, expected=(200, 204))
        self._url = headers["X-Storage-Url"]
        self._headers = {"X-Auth-Token": headers["X-Auth-Token"]}

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        expected: tuple[int, ...] = (200, 201, 202, 204),
    ) -> tuple[int, bytes, HTTPMessage]:
        """Status, body and headers. Raises UnusableError for an unexpected status, OSError without an answer."""
        place = urlsplit(self._url)
        connection = HTTPSConnection(place.netloc, timeout=ANSWER_SECONDS, context=self._tls)
        try:
            connection.request(method, place.path + path, body, {**self._headers, **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
        except HTTPException as error:
            raise UnusableError(f"{method} {self._url}{path} was broken off") from error
        finally:
            connection.close()
        if answer.status not in expected:
            raise UnusableError(f"{method} {self._url}{path} answered {answer.status}")
        return answer.status, content, answer.headers

    def has(self, container: str) -> bool:
        """Whether the container is there."""
        return self.ask("HEAD", f"/{container}", expected=(204, 404))[0] == 204

    def put_test_object(self, path: str) -> float:
        """Write, read and delete an object; returns how long the write took, in seconds."""
        content = os.urandom(PROBE_BYTES)
        started = time.monotonic()
        self.ask("PUT", path, {"ETag": hashlib.md5(content, usedforsecurity=False).hexdigest()}, content)
        seconds = time.monotonic() - started
        if self.ask("GET", path)[1] != content:
            raise UnusableError(f"GET {self._url}{path} gave other bytes than were written")
        self.ask("DELETE", path)
        return seconds


def main() -> None:
    """Create the container and use it."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "url": text,
            "user": text,
            "key": {**text, "no_log": True},
            "container": text,
            "test_object": text,
            "ca_file": {"type": "path", "default": "/etc/longhaul/pki/ca.crt"},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    container, changed = parameters["container"], False
    deadline = time.monotonic() + parameters["timeout"]
    while True:
        try:
            proxy = Proxy(parameters["url"], parameters["user"], parameters["key"], parameters["ca_file"])
            missing = not proxy.has(container)
            if module.check_mode:
                module.exit_json(changed=missing)
            if missing:
                proxy.ask("PUT", f"/{container}")
                changed = True
            test_object = f"/{container}/{parameters['test_object']}"
            module.exit_json(changed=changed, seconds=proxy.put_test_object(test_object))
        except (OSError, UnusableError) as error:
            if module.check_mode:
                module.exit_json(changed=True)
            if time.monotonic() > deadline:
                module.fail_json(msg=f"The storage cannot be used through {parameters['url']}: {error}")
            time.sleep(1)


if __name__ == "__main__":
    main()
