"""A snapshot of packages as it could be from long ago: one that is there, with an older version of one package."""

from __future__ import annotations

SNAPSHOT = "20200101-00000000"
VERSION = "0~older"


def command(package: str, snapshot: str) -> list[str]:
    """A command for the host of the repository, as root, that publishes SNAPSHOT: `snapshot` with that package older.

    The package is Debian's as it is, but for its version.
    """
    return ["sh", "-c", _SCRIPT, "sh", package, VERSION, snapshot, SNAPSHOT]


_SCRIPT = """
set -e
cd "$(mktemp -d)"
apt-get update -qq
apt-get download -qq "$1"
dpkg-deb -R "$1"_*.deb tree
sed -i "s/^Version: .*/Version: $2/" tree/DEBIAN/control
dpkg-deb --root-owner-group -b tree "$1_older.deb" >/dev/null
chmod -R a+rX .
aptly() { runuser -u packages -- env HOME=/srv/packages GNUPGHOME=/srv/packages/gnupg aptly -config=/srv/packages/aptly.conf "$@" >/dev/null; }
aptly repo create older
aptly repo add older "$1_older.deb"
aptly snapshot create older from repo older
aptly snapshot merge "$4" "$3" older
aptly publish snapshot -batch -skip-contents -distribution=trixie -component=main -origin=Longhaul "$4" "$4"
"""  # noqa: E501 - one call of a program
