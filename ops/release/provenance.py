"""The provenance of a release: who built it, when, from what and with which tools; signed, and beside the archive.

It is an in-toto statement (https://in-toto.io/Statement/v1) with SLSA's predicate (https://slsa.dev/spec/v1.0/provenance).
"""

from __future__ import annotations

import getpass
import platform
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ops.on_host.install_release import sha256_of
from ops.release import source
from ops.release.source import Source

BUILD_TYPE = "urn:longhaul:build:1"


def now() -> str:
    """The time, as statements write it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def statement(
    name: str, sha256: str, made_from: Source, tools: Mapping[str, str], *, began: str, tree: Path
) -> dict[str, Any]:
    """The statement about an archive of that name and SHA-256. `tree`: the exported source, for its locks."""
    origin, builder = source.origin(), f"{getpass.getuser()}@{platform.node()}"
    locks = ["requirements.txt", "app/requirements.txt", "app/frontend/package-lock.json"]
    materials: list[dict[str, Any]] = [
        {
            "uri": f"git+{origin}" if origin else "git+local",
            "digest": {"gitCommit": made_from.commit},
            "annotations": {"dirty": made_from.dirty},
        }
    ]
    materials += [{"uri": f"file:{lock}", "digest": {"sha256": sha256_of(tree / lock)}} for lock in locks]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": sha256}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"ref": made_from.asked, "commit": made_from.asked_commit},
                "internalParameters": {"version": made_from.version},
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {
                    "id": f"urn:longhaul:builder:{builder}",
                    "version": dict(tools),
                },
                "metadata": {"invocationId": str(uuid.uuid4()), "startedOn": began, "finishedOn": now()},
            },
        },
    }
