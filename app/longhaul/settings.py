"""Everything that can be set, read once from the environment and from systemd credentials.

Names and units are fields of `Settings`; a wrong value raises `SettingsError`, which names the variable.
Default numbers are production's: they come from `policy.toml`, the computed copy of `inventories/policy.yml`.
Secrets never come from the environment: they are files in `$CREDENTIALS_DIRECTORY`, read when asked for.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

POLICY: dict[str, float] = tomllib.loads(Path(__file__).with_name("policy.toml").read_text(encoding="utf-8"))
"""Numbers that the application shares with the rest of the system. Those with `bytes` in their names are whole."""

LONGEST_PIECE_SECONDS = 0.75 * POLICY["policy_storage_client_seconds"]
"""A piece may be one request to Swift for as long as it grows, and Swift ends a request that takes longer."""


class SettingsError(Exception):
    """A variable or credential is missing or wrong. The message names it and says what is expected."""


def installed_release(file: Path) -> str:
    """The version in the path of installed code (.../releases/VERSION/...), or "development"."""
    parts = file.resolve().parts
    return parts[parts.index("releases") + 1] if "releases" in parts[:-1] else "development"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Values of the variables `LONGHAUL_<NAME>`; sizes in bytes, times in seconds."""

    database: str
    """libpq connection string or URL, without password; several hosts with `target_session_attrs=read-write`."""
    store: str
    """`directory:/path`, or `swift:https://proxy1:8443,https://proxy2:8443`."""
    swift_user: str = ""
    swift_container: str = ""
    """Both are needed with a Swift store."""
    ca_file: str = ""
    """CA that signed the store's certificates; empty: the system's."""

    public_url: str = ""
    """The address that clients use, without trailing slash; empty: taken from each request."""
    listen: str = "127.0.0.1:8080"
    tls_cert: str = ""
    tls_key: str = ""

    environment: str = "development"
    """Name of the environment that this process belongs to; tokens that ask for a trace are for one environment."""
    server: str = field(default_factory=socket.gethostname)
    """Name of this host, in log lines and in the rows that it writes."""
    release: str = field(default_factory=lambda: installed_release(Path(__file__)))
    """The release that this process runs."""
    drain_mark: str = "/var/lib/longhaul/drain"
    """While this file exists, the health page answers 404."""

    max_upload_bytes: int = int(POLICY["policy_largest_upload_bytes"])
    piece_bytes: int = int(POLICY["policy_piece_bytes"])
    """A piece is closed when it has this size."""
    piece_seconds: float = POLICY["policy_piece_seconds"]
    """A piece is closed this long after its first byte: what a crash may cost a slow client."""
    buffer_bytes: int = int(POLICY["policy_buffer_bytes"])
    """Bytes that all uploads of this process together may hold in memory before pieces are closed early."""
    idle_seconds: float = POLICY["policy_idle_seconds"]
    """A client that sends less than 1 KiB in this time is disconnected; what it sent is kept."""
    head_hold_seconds: float = POLICY["policy_head_hold_seconds"]
    """How long a request waits for an unreachable database or store before its connection is closed."""
    page_hold_seconds: float = POLICY["policy_page_hold_seconds"]
    """How long a page waits for an unreachable database."""
    epoch_poll_seconds: float = POLICY["policy_epoch_poll_seconds"]
    upload_days: float = POLICY["policy_upload_expiry_days"]
    """An unfinished upload expires this many days after its last piece."""
    keep_days: float = POLICY["policy_keep_days"]
    """Pieces of an ended upload are kept this long, so that they outlive the oldest backup that names them."""
    handover_seconds: float = POLICY["policy_handover_seconds"]
    """Longest time from SIGTERM to exit of a web process, while database and store answer."""

    processor_socket: str = ""
    processors: str = ""
    work: str = "/var/lib/longhaul/work"
    worker_concurrency: int = int(POLICY["policy_worker_concurrency"])
    """How many jobs a worker runs at once."""
    job_stop_seconds: float = POLICY["policy_job_stop_seconds"]
    """Longest time from SIGTERM to exit of a worker; running jobs may end within half of it."""
    stalled_seconds: float = POLICY["policy_job_stalled_seconds"]
    """A worker without a heartbeat for this long counts as dead. More than the time in which a database failover ends
    and dead connections are noticed, plus a minute; else jobs are taken from living workers."""

    credentials: Path | None = None
    """`$CREDENTIALS_DIRECTORY`."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the variables. Raises SettingsError for a missing or malformed one; ignores unknown ones."""
        environment = os.environ if environment is None else environment
        given = {name[9:].lower(): value for name, value in environment.items() if name.startswith("LONGHAUL_")}
        values: dict[str, object] = {}
        for name, kind in _KINDS.items():
            if name in given:
                values[name] = _convert(name, kind, given[name])
        missing = [f"LONGHAUL_{name.upper()}" for name in ("database", "store") if not given.get(name)]
        if missing:
            raise SettingsError(f"set {' and '.join(missing)} in the environment")
        if directory := environment.get("CREDENTIALS_DIRECTORY"):
            values["credentials"] = Path(directory)
        settings = cls(**values)  # type: ignore[arg-type]  # _convert gave each field the type that _KINDS says
        settings.check()
        return settings

    def check(self) -> None:
        """Raise SettingsError if values do not fit together."""
        if not re.fullmatch(r"directory:/.+|swift:https?://\S+", self.store):
            raise SettingsError(
                f"LONGHAUL_STORE={self.store!r}: expected directory:/path or swift:https://host:port[,https://...]"
            )
        if self.store.startswith("swift:") and not (self.swift_user and self.swift_container):
            raise SettingsError("set LONGHAUL_SWIFT_USER and LONGHAUL_SWIFT_CONTAINER: the store is Swift")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise SettingsError("set both LONGHAUL_TLS_CERT and LONGHAUL_TLS_KEY, or neither")
        if self.piece_seconds > LONGEST_PIECE_SECONDS:
            raise SettingsError(
                f"LONGHAUL_PIECE_SECONDS={self.piece_seconds}: at most {LONGEST_PIECE_SECONDS:g}, or Swift ends the"
                " request while the piece is sent"
            )
        self.listen_address()

    def listen_address(self) -> tuple[str, int]:
        """Host and port of `listen`. Raises SettingsError."""
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise SettingsError(f"LONGHAUL_LISTEN={self.listen!r}: expected host:port")
        return host.strip("[]"), int(port)

    def credential(self, name: str) -> str | None:
        """Text of a credential without surrounding white space, or None if there is no such file.

        Raises SettingsError if the file exists and cannot be read.
        """
        if self.credentials is None:
            return None
        path = self.credentials / name
        try:
            return path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"credential {path} cannot be read: {error}") from error

    def required_credential(self, name: str) -> str:
        """Like `credential`, but raises SettingsError if it is missing or empty."""
        value = self.credential(name)
        if not value:
            place = self.credentials or "$CREDENTIALS_DIRECTORY (not set)"
            raise SettingsError(f"credential {name!r} is missing in {place}: give it with systemd's LoadCredential")
        return value


_NOT_VARIABLES = {"credentials"}
_KINDS: dict[str, str] = {
    name: str(kind) for name, kind in Settings.__annotations__.items() if name not in _NOT_VARIABLES
}


def _convert(name: str, kind: str, text: str) -> object:
    if kind == "str":
        return text
    try:
        number = int(text) if kind == "int" else float(text)
    except ValueError:
        number = -1
    if not 0 < number < float("inf"):
        raise SettingsError(f"LONGHAUL_{name.upper()}={text!r}: expected a positive {'whole ' * (kind == 'int')}number")
    return number
