"""The policy reaches the application: a value that changes there is another default here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import yaml

from app.longhaul.settings import Settings
from ops import policy
from ops.paths import APP

DEFAULTS = """
import json
from dataclasses import fields
from longhaul.settings import Settings
print(json.dumps({field.name: field.default for field in fields(Settings) if isinstance(field.default, int | float)}))
"""


def defaults(folder: Path, changed_policy: Path) -> dict[str, float]:
    """The default numbers of an application whose copy of the policy was made from `changed_policy`."""
    package = folder / "longhaul"
    package.mkdir()
    for name in ("__init__.py", "settings.py"):
        shutil.copy(APP / "longhaul" / name, package)
    (package / "policy.toml").write_text(policy.copy_for_app(changed_policy))
    found = subprocess.run(
        [sys.executable, "-c", DEFAULTS], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
    )
    answer: dict[str, float] = json.loads(found.stdout)
    return answer


def test_expressions_are_computed() -> None:
    known = policy.values()
    assert all(isinstance(value, int | float) for value in known.values())
    assert known["policy_stop_seconds"] == known["policy_handover_seconds"] + 10


def test_a_changed_policy_changes_the_applications_defaults(tmp_path: Path) -> None:
    written = yaml.safe_load(policy.POLICY.read_text())
    # Numbers that are written down grow; those that are computed from them follow.
    changed = {name: value * 3 if isinstance(value, int | float) else value for name, value in written.items()}
    file = tmp_path / "policy.yml"
    file.write_text(yaml.safe_dump(changed, sort_keys=False))
    before = {field.name: field.default for field in fields(Settings) if isinstance(field.default, int | float)}
    after = defaults(tmp_path, file)
    assert after.keys() == before.keys()
    # Both facts about users grew alike, so their quotient did not.
    assert [name for name, value in after.items() if value <= before[name]] == ["upload_days"]
    assert after["piece_bytes"] == 3 * written["policy_piece_bytes"]
