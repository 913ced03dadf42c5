"""The program that reads sources on hosts: ours only, though a script names them and it runs as root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ops.on_host import source_files


def test_only_python_of_ours_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
        (folder / "a.py").write_text("a = 1\n")
    monkeypatch.setattr(source_files, "HOME", home)
    (home / "secret").write_text("secret")
    (home / "large.py").write_text("#" * (source_files.LARGEST + 1))
    (home / "link.py").symlink_to(elsewhere / "a.py")
    (home / "inside.py").symlink_to("a.py")
    (home / "named.py").symlink_to("secret")
    os.mkfifo(home / "pipe.py")
    names = ["a.py", "secret", "large.py", "link.py", "inside.py", "named.py", "pipe.py", "gone.py", "\0.py"]
    asked = [*(str(home / name) for name in names), str(elsewhere / "a.py"), f"{home}/../elsewhere/a.py"]
    assert source_files.texts(asked) == {str(home / name): "a = 1\n" for name in ("a.py", "inside.py")}
