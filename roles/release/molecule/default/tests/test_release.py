"""A release runs from its own folder, is what an allowed signer signed, and makes room for later ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name
from testinfra.backend.base import CommandResult
from testinfra.host import Host

from ops import release, secrets
from ops.artefact import archive, manifest
from ops.environment import Environment
from ops.inventories import LAB_ENVIRONMENT
from ops.on_host import install_release as installer
from ops.release import signature
from roles.conftest import Ansible
from tests.support.releases import altered

HOME = "/opt/longhaul"
RELEASES = f"{HOME}/releases"
EVERYWHERE = "all,localhost"  # converge.yml asks the control side which release there is


@pytest.fixture
def version(host: Host) -> str:
    """The release that converge.yml installed."""
    return host.check_output(f"ls -t {RELEASES} | head -1")


def test_the_command_runs_on_the_hosts_python(host: Host, version: str) -> None:
    said = host.run(f"{RELEASES}/{version}/venv/bin/longhaul --help")
    assert said.rc == 0, said.stderr
    for command in ("web", "worker", "migrate", "processor"):
        assert command in said.stdout


def test_every_library_that_the_code_imports_is_there(host: Host, version: str) -> None:
    modules = "longhaul.web.server, longhaul.processing.worker, longhaul.processing.sandbox, longhaul.stores.swift"
    said = host.run(f"{RELEASES}/{version}/venv/bin/python -c 'import {modules}, uvloop, httptools'")
    assert said.rc == 0, said.stderr


def test_the_environment_holds_what_is_on_the_bill_and_nothing_else(host: Host, version: str) -> None:
    """pip, for one, is needed only while the environment is made."""
    bill = json.loads(host.file(f"{RELEASES}/{version}/sbom.cdx.json").content_string)
    listed = [part["name"] for part in bill["components"] if part["purl"].startswith("pkg:pypi/")]
    assert listed
    names = "from importlib.metadata import distributions; print(*(found.name for found in distributions()))"
    there = host.check_output("%s -c %s", f"{RELEASES}/{version}/venv/bin/python", names).split()
    assert sorted(map(canonicalize_name, there)) == sorted(map(canonicalize_name, [*listed, "longhaul"]))


def test_files_are_those_of_the_manifest(host: Host, version: str) -> None:
    described = json.loads(host.file(f"{RELEASES}/{version}/manifest.json").content_string)
    assert described["version"] == version
    kept = {name: entry for name, entry in described["files"].items() if not name.startswith("wheels/")}
    assert {"frontend/app.js", "processors/inspect_file.py", "sbom.cdx.json"} <= set(kept)
    for name, entry in kept.items():
        assert host.file(f"{RELEASES}/{version}/{name}").sha256sum == entry["sha256"], name


def test_hosts_know_who_may_sign_and_root_alone_can_change_that(
    host: Host, version: str, variables: Mapping[str, Any]
) -> None:
    file = host.file("/etc/longhaul/release-signers")
    assert (file.user, file.mode) == ("root", 0o644)
    lines = [line for line in file.content_string.splitlines() if not line.startswith("#")]
    signers = variables["release_signers"]
    assert signers
    assert lines == [f'{signer["principal"]} namespaces="longhaul-release" {signer["key"]}' for signer in signers]
    signer = host.file(f"{RELEASES}/{version}/signer").content_string.strip()
    assert signer in {signer["principal"] for signer in signers}


# --- What is refused --------------------------------------------------------------------------------------------------


def small(folder: Path, version: str) -> Path:
    """An archive that is right but for having no application in it."""
    content = folder / f"content-{version}"
    content.mkdir()
    (content / "requirements.txt").write_text("")
    manifest.write(content, version=version)
    archive.pack(content, 0, folder / version)
    return folder / version


@dataclass(frozen=True)
class Offer:
    """A small archive called `offered`, the keys to sign it with, and the host that it is carried to."""

    file: Path
    labs_key: Path
    other_key: Path
    carry: Callable[[Path, str], object]
    host: Host

    def sign(self, key: Path, file: Path | None = None, namespace: str = installer.NAMESPACE) -> None:
        """Let its signature be that of `file`: of itself, unless another is named."""
        signature.sign(file or self.file, key, self.file.with_name(f"{self.file.name}.sig"), namespace)

    def install(self) -> CommandResult:
        """Carry it, and its signature if it has one, to the host and ask the installer there to take it."""
        for suffix in ("", ".sig"):
            source = self.file.with_name(f"{self.file.name}{suffix}")
            if source.exists():
                self.carry(source, f"{HOME}/archives/{self.file.name}.tar.zst{suffix}")
        return self.host.run(f"{HOME}/install-release {self.file.name} {release.sha256_of(self.file)} 5")


@pytest.fixture
def offered(tmp_path: Path, host: Host, host_name: str, ansible: Ansible) -> Iterator[Offer]:
    """What a host is asked to install."""
    other = tmp_path / "other-key"
    other.touch(mode=0o600)
    other.write_text(secrets.generate(Environment.of_checkout(LAB_ENVIRONMENT))["vault_release_signing_key"])

    def carry(source: Path, target: str) -> None:
        ansible.module(host_name, "ansible.builtin.copy", src=str(source), dest=target, mode="0644")

    with signature.signing_key(for_lab=True) as labs:
        yield Offer(small(tmp_path, "offered"), labs, other, carry, host)


def nothing_is_left(host: Host, version: str) -> bool:
    """Whether a refused release has left no file."""
    return not host.check_output(f"find {HOME} -path '*/{version}*' -print -quit")


def unsigned(_offered: Offer) -> None:
    """Nobody signed it."""


def signed_by_another(offered: Offer) -> None:
    """Well, but by somebody who is not allowed."""
    offered.sign(offered.other_key)


def altered_after_signing(offered: Offer) -> None:
    """By one bit."""
    offered.sign(offered.labs_key)
    content = bytearray(offered.file.read_bytes())
    content[-1] ^= 1
    offered.file.write_bytes(content)


def signature_of_another(offered: Offer) -> None:
    """The lab signed another version."""
    offered.sign(offered.labs_key, small(offered.file.parent, "another"))


def signed_for_another_purpose(offered: Offer) -> None:
    """The lab signed it, as something else than a release."""
    offered.sign(offered.labs_key, namespace=signature.PROVENANCE_NAMESPACE)


def another_version(offered: Offer) -> None:
    """The lab signed it, and it is not what it is offered as."""
    small(offered.file.parent, "another").rename(offered.file)
    offered.sign(offered.labs_key)


BAD = {
    unsigned: "is not signed",
    signed_by_another: "is not an allowed signer's",
    altered_after_signing: "is not a signature of offered.tar.zst as it is",
    signature_of_another: "they belong to different versions",
    signed_for_another_purpose: "is not a signature of offered.tar.zst as it is",
    another_version: "the manifest in the archive is of another, not of offered",
}


@pytest.mark.parametrize(("spoil", "says"), BAD.items(), ids=[spoil.__name__ for spoil in BAD])
def test_what_is_not_signed_as_it_must_be_is_refused(offered: Offer, spoil: Callable[[Offer], None], says: str) -> None:
    spoil(offered)
    said = offered.install()
    assert said.rc == 1
    assert says in " ".join(said.stderr.split()), said.stderr
    assert nothing_is_left(offered.host, "offered")


def test_what_was_damaged_on_the_way_is_refused_and_removed(host: Host) -> None:
    host.run_test(f"echo junk > {HOME}/archives/bad.tar.zst")
    said = host.run(f"{HOME}/install-release bad {'0' * 64} 5")
    assert said.rc == 1
    assert "was damaged" in said.stderr
    assert nothing_is_left(host, "bad")


def test_a_deployment_of_what_nobody_signed_does_not_reach_the_hosts(
    host: Host, version: str, ansible: Ansible
) -> None:
    with altered(release.find(version), "unsigned") as new:
        new.path.with_name(f"{new.path.name}.sig").unlink()
        said = ansible.converge(check=False, limit=EVERYWHERE, **variables_of(new))
    assert said.returncode != 0
    assert "is not signed" in said.stdout
    assert nothing_is_left(host, "unsigned")


def test_a_release_whose_application_does_not_run_leaves_nothing(host: Host, version: str, ansible: Ansible) -> None:
    def without_a_wheel(content: Path) -> None:
        next((content / "wheels").glob("starlette-*.whl")).unlink()

    with altered(release.find(version), "incomplete", without_a_wheel) as new:
        said = ansible.converge(check=False, limit=EVERYWHERE, **variables_of(new))
    assert said.returncode != 0
    assert "incomplete is not installed" in said.stdout
    assert nothing_is_left(host, "incomplete")


def variables_of(built: release.Release) -> dict[str, str]:
    """What a deployment tells the role."""
    return {"release_version": built.version, "release_archive": str(built.path), "release_sha256": built.sha256}


# --- What stays -------------------------------------------------------------------------------------------------------


def test_oldest_go_and_what_is_in_use_stays(host: Host, version: str, ansible: Ansible) -> None:
    """Seven more, and the current one is the oldest: the newest three stay, and what the host runs or ran."""
    host.run_test(f"ln -sfn releases/{version} {HOME}/current")
    host.run_test(f"touch -d 2020-01-01 {RELEASES}/{version}")
    for number in range(6):
        old = f"{RELEASES}/old{number}"
        host.run_test(f"mkdir -p {old} && touch {old}/archive.sha256 && touch -d 2021-01-0{number + 1} {old}")
    host.run_test(f"mkdir -p {RELEASES}/cut-off")
    host.run_test(f"echo old1 > {HOME}/previous && echo old2 > {HOME}/switching")
    with altered(release.find(version), "newest") as new:
        ansible.converge(limit=EVERYWHERE, release_kept=3, **variables_of(new))
    left = host.check_output(f"ls {RELEASES}").split()
    assert sorted(left) == sorted(["newest", "old5", "old4", "old2", "old1", version])


def test_other_content_under_a_used_version_is_refused(host: Host, version: str, ansible: Ansible) -> None:
    said = ansible.converge(check=False, limit=EVERYWHERE, release_version=version, release_sha256="0" * 64)
    assert said.returncode != 0
    assert "with other content" in said.stdout
