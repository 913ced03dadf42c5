"""Uploads one file with tuspy, and prints what happens as one JSON object per line, as upload.mjs does.

    python tuspy_upload.py FILE --endpoint=URL --token=TOKEN

tuspy's own default is to give up at the first error; its documented `retries` and `retry_delay` are what a user sets
who has been cut off once. The chunk size is tuspy's default: the whole file in one PATCH. Certificates are checked
against REQUESTS_CA_BUNDLE. Ends with 0 after success and 1 after tuspy has given up.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
from tusclient.uploader.uploader import Uploader

RETRIES = 10
RETRY_DELAY_SECONDS = 2


def tell(event: str, **facts: Any) -> None:
    """One line for the test that started this."""
    print(json.dumps({"event": event, "at": time.time(), **facts}), flush=True)  # noqa: T201  # the protocol of this program


class Telling(Uploader):
    """tuspy's uploader, which also says what it does."""

    def set_url(self, url: str) -> None:
        """Called once with the Location of the creation."""
        super().set_url(url)
        tell("url", url=url)

    def get_offset(self) -> int:
        """HEAD."""
        tell("request", method="HEAD", url=self.url)
        offset: int = super().get_offset()
        tell("response", method="HEAD", status=200, offset=str(offset))
        return offset

    def create_url(self) -> str:
        """POST."""
        tell("request", method="POST")
        url: str = super().create_url()
        return url


def main() -> int:
    """Upload, and say how it went."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--token", required=True)
    given = parser.parse_args()
    client = TusClient(given.endpoint, headers={"Authorization": f"Bearer {given.token}"})
    uploader = Telling(
        str(given.file),
        client=client,
        metadata={"filename": given.file.name},
        retries=RETRIES,
        retry_delay=RETRY_DELAY_SECONDS,
    )
    try:
        uploader.upload()
    except TusCommunicationError as error:
        tell("error", message=str(error), status=error.status_code)
        return 1
    tell("success", url=uploader.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
