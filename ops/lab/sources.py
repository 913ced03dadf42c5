"""The Debian mirror that a lab uses: the one that the machine's apt uses, or what LONGHAUL_DEBIAN_MIRROR names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ops.errors import Exit, Failure

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# https://www.debian.org/mirror/list: the name that Debian itself documents, for machines that are not Debian.
PUBLIC = "http://deb.debian.org/debian"


@dataclass(frozen=True)
class Mirror:
    """The URLs of the main archive and of the security archive, without a slash at the end."""

    main: str
    security: str

    def one_line_sources(self, suite: str) -> str:
        """The lines of a sources.list for `suite`, its updates and its security updates."""
        signed = f"[signed-by={KEYRING}]"
        return (
            f"deb {signed} {self.main} {suite} main\n"
            f"deb {signed} {self.main} {suite}-updates main\n"
            f"deb {signed} {self.security} {suite}-security main\n"
        )

    def deb822(self, suite: str) -> str:
        """The same as a .sources file (sources.list(5)), with the keyring that every Debian has."""
        tail = f"Components: main\nSigned-By: {KEYRING}\n"
        return (
            f"Types: deb\nURIs: {self.main}\nSuites: {suite} {suite}-updates\n{tail}\n"
            f"Types: deb\nURIs: {self.security}\nSuites: {suite}-security\n{tail}"
        )


def mirror(apt: Path = Path("/etc/apt")) -> Mirror:
    """The mirror to use: LONGHAUL_DEBIAN_MIRROR (the URL that ends in /debian), else what the machine's apt uses.

    Raises Failure for a mirror that a package cache cannot speak to (anything but http and https).
    """
    named = os.environ.get("LONGHAUL_DEBIAN_MIRROR", "").rstrip("/")
    if named:
        return _pair(named)
    urls = list(_urls(apt))
    main = next((url for url in urls if url.endswith("/debian")), None)
    if main is None:
        return _pair(PUBLIC)
    return _pair(main, next((url for url in urls if url.endswith("/debian-security")), None))


def _pair(main: str, security: str | None = None) -> Mirror:
    if not re.match(r"https?://[^/]+/", main):
        raise Failure(
            f"The Debian mirror {main} cannot be reached over HTTP.",
            "Name one that can: LONGHAUL_DEBIAN_MIRROR=http://HOST/debian",
            Exit.BAD_CONFIGURATION,
        )
    return Mirror(main, security or re.sub(r"/debian$", "/debian-security", main))


def _urls(apt: Path) -> Iterator[str]:
    """Every archive URL in the machine's sources, of both formats, in apt's own order of files."""
    listed = sorted((apt / "sources.list.d").glob("*"))
    for path in [apt / "sources.list", *listed]:
        if not path.is_file() or path.suffix not in {".list", ".sources"}:
            continue
        for raw in path.read_text(errors="replace").splitlines():
            line = raw.strip()
            if path.suffix == ".sources":
                if line.lower().startswith("uris:"):
                    yield from (url.rstrip("/") for url in line.split()[1:])
            elif match := re.match(r"deb\s+(\[[^]]*]\s+)?(?P<url>\S+)", line):
                yield match["url"].rstrip("/")
