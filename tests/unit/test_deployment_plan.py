"""What a deployment tells before anybody is asked: its hosts, commits, migrations and changes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from ops.ansible import Change
from ops.deployment import plan, releases
from ops.environment import Environment
from ops.errors import Exit, Failure

HOSTS = ["worker1", "worker2", "web1", "web2"]
NEW = "20260202T000000-bbbbbbbbbbbb"


class TestFleet:
    def test_workers_come_first_and_a_shared_host_is_drained(self) -> None:
        environment = Environment.of_checkout("lab")
        assert [host.name for host in releases.hosts_of(environment)] == HOSTS
        assert [host.name for host in releases.hosts_of(environment, "web2, worker1")] == ["worker1", "web2"]

    @pytest.mark.parametrize(("limit", "says"), [("lb1", "runs no release"), ("nobody", "no host 'nobody'")])
    def test_a_limit_that_means_nothing_is_refused(self, limit: str, says: str) -> None:
        with pytest.raises(Failure, match=says) as refused:
            releases.hosts_of(Environment.of_checkout("lab"), limit)
        assert refused.value.code == Exit.USAGE


class TestPlan:
    @pytest.fixture
    def repository(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        """Commits the given files and returns the commit."""
        monkeypatch.setattr(plan, "ROOT", tmp_path)

        def git(*arguments: str) -> str:
            identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
            answer = subprocess.run(
                ["git", *identity, *arguments], cwd=tmp_path, capture_output=True, check=True, text=True
            )
            return answer.stdout.strip()

        def commit(subject: str, **files: str) -> str:
            for name, text in files.items():
                path = tmp_path / plan.MIGRATIONS / f"{name}.py"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            git("add", "-A")
            git("commit", "--allow-empty", "-m", subject)
            return git("rev-parse", "HEAD")

        git("init", "-q")
        return commit

    def test_commits_and_migrations_are_told(self, repository: Callable[..., str]) -> None:
        first = repository("one", r1='phase = "expand"\n')
        second = repository("two", r2='phase: Literal["expand", "contract"] = "contract"\n', r3="other = 1\n")
        lines = plan.commits(first, second)
        assert lines is not None
        assert [line.partition(" ")[2] for line in lines] == ["two"]
        assert plan.migrations(first, second) == [
            plan.Migration("r2.py", "contract"),
            plan.Migration("r3.py", "no phase"),
        ]

    def test_a_way_back_says_what_goes_away(
        self, repository: Callable[..., str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, second = repository("one", r1=""), repository("two", r2="")
        plan._show_code(Console(width=100), second, first)
        assert capsys.readouterr().out.splitlines()[:3] == [
            "Commits that are added: 0",
            "Commits that are taken back: 1",
            f"  {second[:7]} two",
        ]

    def test_a_commit_that_git_does_not_know(self, repository: Callable[..., str]) -> None:
        assert plan.commits("0" * 12, repository("one")) is None

    def test_the_same_change_on_several_hosts_is_one_row(self) -> None:
        changes = [Change("web2", "base", "Write", "/etc/x"), Change("web1", "base", "Write", "/etc/x")]
        table = plan.table_of(changes)
        assert table.row_count == 1
        assert list(table.columns[3].cells) == ["web1 web2"]

    def test_a_version_names_its_commit(self) -> None:
        assert plan.commit_of(NEW) == "bbbbbbbbbbbb"
        assert plan.commit_of(f"{NEW}-dirty-123456789012") == "bbbbbbbbbbbb"
        assert plan.commit_of("") == ""
