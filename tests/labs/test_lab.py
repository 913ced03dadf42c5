"""The local data centre itself, on real hosts: that it boots, breaks as it says, heals, and leaves nothing behind.

The hosts are those of the environment `lab`, in labs of names that only this file uses.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.errors import Failure
from ops.inventories import PACKAGES_FILE
from ops.lab import cgroups, network
from ops.lab.host import LabHost
from ops.lab.lab import Lab
from ops.lab.place import LABS, NETNS
from ops.paths import ROOT

ONE, OTHER, DATA = "web1", "web2", "data1"
NAMES = [ONE, OTHER, DATA]


def leftovers(name: str) -> list[str]:
    """Whatever of a lab is still on the machine: files, namespaces, links, groups, loop devices, processes."""
    place = Lab.named(name).place
    found = [str(path) for path in (place.directory,) if path.exists()]
    found += [f"netns {path.name}" for path in NETNS.glob(f"{place.netns}*") if path.name.split(".")[1] == name]
    found += [f"link {path.name}" for path in Path("/sys/class/net").glob(place.cable)]
    found += [str(path) for path in Path("/run/systemd/nspawn").rglob(f"{name}-*")]
    found += [f"group {group.name}" for group in cgroups.groups_of(name)]
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if f"/{name}/" in path.read_text():
                found.append(f"loop {path}")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{LABS}/{name}/" in path.read_text():
                found.append(f"process {path.parent.name}: {path.read_text()}")
    return found + [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if f"/{name}/" in line]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab with three hosts."""
    made = Lab.named("t-lab")
    made.destroy()
    made.up(NAMES)
    yield made
    made.destroy()
    assert leftovers(made.name) == []


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest) -> None:
    """Every test finds the hosts up and healthy, whatever the one before has done."""
    if "lab" in request.fixturenames:
        made = request.getfixturevalue("lab")
        made.heal()
        made.up(NAMES)


def out(lab: Lab, host: str, *command: str) -> str:
    """Standard output of a command in a host, which must succeed."""
    done = lab.exec(host, command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pings(lab: Lab, one: str, other: str) -> bool:
    """Whether one host reaches another."""
    return lab.exec(one, ["ping", "-c1", "-W1", "-q", lab.host(other).address]).returncode == 0


def ssh(lab: Lab, host: str, command: str) -> subprocess.CompletedProcess[str]:
    """A command over SSH, accepting only the host key that the lab's inventory has."""
    options = [*lab.environment.ssh_options(), "-o", "BatchMode=yes", "-i", str(lab.place.key)]
    address = lab.host(host).address
    return subprocess.run(["ssh", *options, f"ops@{address}", command], capture_output=True, text=True, check=False)


class TestHosts:
    def test_ssh_accepts_the_known_key_and_ops_may_become_root(self, lab: Lab) -> None:
        answer = ssh(lab, ONE, "sudo -n id -u && hostname")
        assert answer.stdout.split() == ["0", ONE], answer.stderr

    def test_ssh_refuses_a_host_with_another_key(self, lab: Lab) -> None:
        known = lab.environment.known_hosts
        keys = dict(line.split(" ", 1) for line in known.read_text().splitlines())
        swapped = dict(zip(keys, reversed(keys.values()), strict=True))
        original = known.read_text()
        known.write_text("".join(f"{names} {key}\n" for names, key in swapped.items()))
        options = ["-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
        try:
            target = f"ops@{lab.host(ONE).address}"
            done = subprocess.run(
                ["ssh", *options, "-i", str(lab.place.key), target, "true"], capture_output=True, text=True, check=False
            )
        finally:
            known.write_text(original)
        assert done.returncode == 255
        assert "verification failed" in done.stderr

    def test_systemd_is_up_without_a_failed_unit(self, lab: Lab) -> None:
        for name in NAMES:
            state = lab.exec(name, ["systemctl", "is-system-running", "--wait"]).stdout.strip()
            assert state == "running", out(lab, name, "systemctl", "--failed")

    def test_up_again_changes_nothing(self, lab: Lab) -> None:
        before = {name: lab.host(name).init() for name in NAMES}
        lab.up(NAMES)
        assert {name: lab.host(name).init() for name in NAMES} == before

    def test_status_is_what_the_kernel_says(self, lab: Lab) -> None:
        found = {host.name: host for host in lab.status()}
        assert list(found) == list(lab.environment.hosts)
        assert found[ONE].state == "running"
        assert 0 < (found[ONE].uptime or 0) < 3600
        missing = next(host for name, host in found.items() if name not in NAMES)
        assert (missing.state, missing.uptime) == ("missing", None)

    def test_a_host_that_reboots_itself_comes_back(self, lab: Lab) -> None:
        before = lab.host(ONE).init()
        lab.exec(ONE, ["systemctl", "reboot"])
        deadline = time.monotonic() + 30
        while lab.host(ONE).init() in {before, None} and time.monotonic() < deadline:
            time.sleep(0.1)
        lab.host(ONE).wait_ready()
        assert lab.host(ONE).init() not in {before, None}

    def test_a_host_that_powers_itself_off_is_stopped(self, lab: Lab) -> None:
        lab.exec(ONE, ["systemctl", "poweroff"])
        assert lab.host(ONE).group.wait_empty(30)
        assert lab.states()[ONE] == "stopped"

    def test_exec_gives_words_and_codes_unchanged(self, lab: Lab) -> None:
        assert out(lab, ONE, "printf", "%s|", "two  words", "$HOME", "") == "two  words|$HOME||"
        assert lab.exec(ONE, ["sh", "-c", "exit 7"]).returncode == 7

    def test_storage_hosts_have_a_mount_point_with_attributes(self, lab: Lab) -> None:
        for path in lab.environment.host(DATA).variables["lab_mounts"]:
            assert out(lab, DATA, "findmnt", "-no", "FSTYPE", path).strip() == "xfs"
            script = f"import os; os.setxattr({path!r}, 'user.x', b'1'); print(os.getxattr({path!r}, 'user.x'))"
            assert out(lab, DATA, "python3", "-c", script).strip() == "b'1'"

    def test_down_keeps_files_and_up_brings_them_back(self, lab: Lab) -> None:
        out(lab, ONE, "sh", "-c", "echo kept >/root/kept")
        block = network.block_of(lab.place)
        lab.down()
        assert set(lab.states().values()) == {"stopped", "missing"}
        assert network.block_of(lab.place) is None
        lab.up(NAMES)
        assert network.block_of(lab.place) == block
        assert out(lab, ONE, "cat", "/root/kept") == "kept\n"


class TestNetwork:
    def test_hosts_reach_each_other_and_the_gateway(self, lab: Lab) -> None:
        assert pings(lab, ONE, OTHER)
        gateway = lab.environment.variable("lab_gateway")
        assert lab.exec(ONE, ["ping", "-c1", "-W1", "-q", gateway]).returncode == 0

    @pytest.mark.parametrize("address", ["203.0.113.9", "198.19.255.9"])
    def test_hosts_have_no_way_out(self, lab: Lab, address: str) -> None:
        script = f"import socket; socket.create_connection(({address!r}, 80), timeout=5)"
        done = lab.exec(ONE, ["python3", "-c", script])
        assert done.returncode != 0
        assert "No route to host" in done.stderr

    def test_the_machine_sends_nothing_of_the_range_out(self, lab: Lab) -> None:
        with pytest.raises(OSError, match="No route to host"):
            socket.create_connection(("198.19.255.9", 80), timeout=5)

    def test_unplug_and_plug(self, lab: Lab) -> None:
        lab.unplug(ONE)
        assert lab.states()[ONE] == "unplugged"
        assert out(lab, ONE, "cat", "/sys/class/net/eth0/carrier") == "0\n"
        assert not pings(lab, OTHER, ONE)
        lab.plug(ONE)
        assert lab.states()[ONE] == "running"
        assert pings(lab, OTHER, ONE)

    def test_a_partition_is_of_two_hosts_only(self, lab: Lab) -> None:
        lab.partition(ONE, OTHER)
        lab.partition(ONE, DATA)
        assert not pings(lab, ONE, OTHER)
        assert not pings(lab, OTHER, ONE)
        assert not pings(lab, DATA, ONE)
        assert pings(lab, OTHER, DATA)
        assert ssh(lab, ONE, "true").returncode == 0
        lab.heal()
        assert pings(lab, ONE, OTHER)
        assert pings(lab, ONE, DATA)

    def test_a_slow_host(self, lab: Lab) -> None:
        def seconds() -> float:
            begun = time.monotonic()
            assert len(ssh(lab, ONE, "dd if=/dev/zero bs=100k count=10 2>/dev/null").stdout) == 1_024_000
            return time.monotonic() - begun

        lab.shape(ONE, "1MB")
        assert all(0.8 < seconds() < 10 for _ in range(3))
        lab.heal()
        assert any(seconds() < 0.8 for _ in range(20))  # any: other tests run beside this one

    def test_a_client_of_5_kilobytes_a_second(self, lab: Lab) -> None:
        port = 9000
        listen = f'nc={port}; exec python3 -c "{_COUNT_BYTES}" $nc'
        with subprocess.Popen(lab.host(ONE).command(["sh", "-c", listen]), stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            slow = lab.client("c1", rate="5KB")
            assert slow.address not in {host.address for host in lab.hosts().values()}
            send = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2]))).sendall(bytes(40000))"
            slow.run([sys.executable, "-c", send, lab.host(ONE).address, str(port)], check=True)
            seconds = float(server.stdout.readline())
        # Headers cost some of the 5,000 bytes a second; the bucket's first 3,000 bytes are free.
        assert 6 < seconds < 24
        lab.remove_client("c1")
        assert network.clients(lab.place) == {}

    def test_clients_have_addresses_of_their_own_and_no_way_out(self, lab: Lab) -> None:
        one, other = lab.client("c1"), lab.client("c2")
        try:
            assert one.address != other.address
            assert lab.client("c1") == one
            # One that came into force later would make a browser there break off its connections.
            addresses = one.run(
                ["ip", "-6", "-oneline", "address", "show", "dev", "eth0"], capture_output=True, text=True
            )
            assert addresses.stdout == ""
            connect = "import socket, sys; socket.create_connection((sys.argv[1], 22), timeout=5)"
            there = one.run([sys.executable, "-c", connect, lab.host(ONE).address], capture_output=True, text=True)
            assert there.returncode == 0, there.stderr
            away = one.run([sys.executable, "-c", connect, "203.0.113.9"], capture_output=True, text=True)
            assert "No route to host" in away.stderr
            with pytest.raises(Failure, match="host already"):
                lab.client(ONE)
        finally:
            one.remove()
            other.remove()

    def test_the_package_cache_serves_debian_and_nothing_else(self, lab: Lab) -> None:
        gateway = lab.environment.variable("lab_gateway")
        assert "Get:" in out(lab, ONE, "apt-get", "update") + out(lab, OTHER, "apt-get", "update")
        out(lab, ONE, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "-q", "hello")
        assert "Hello" in out(lab, ONE, "hello")
        refused = [
            "curl",
            "-sS",
            "-o/dev/null",
            "-w%{http_code}",
            "-x",
            f"http://{gateway}:3142",
            "http://repository.invalid/",
        ]
        assert lab.exec(ONE, refused).stdout == "403"
        tunnel = ["curl", "-sS", "-x", f"http://{gateway}:3142", "https://repository.invalid/"]
        assert lab.exec(ONE, tunnel).returncode != 0

    def test_the_package_cache_listens_on_the_gateway_only(self, lab: Lab) -> None:
        gateway = lab.environment.variable("lab_gateway")
        said = subprocess.run(["ss", "-Hltn", "sport = :3142"], capture_output=True, text=True, check=True).stdout
        assert f"{gateway}:3142" in said
        assert "0.0.0.0:3142" not in said
        assert "*:3142" not in said


_COUNT_BYTES = """
import socket, sys, time
s = socket.create_server(('', int(sys.argv[1])))
print('ready', flush=True)
c, _ = s.accept()
begun = time.monotonic()
while c.recv(65536): pass
print(time.monotonic() - begun, flush=True)
"""


class TestPower:
    def test_a_power_cut_loses_what_was_not_synced_and_nothing_else(self, lab: Lab) -> None:
        script = (
            "import os\n"
            "for name, sync in (('synced', True), ('unsynced', False)):\n"
            "    with open('/root/' + name, 'w') as f:\n"
            "        f.write('x' * 100000)\n"
            "        f.flush()\n"
            "        if sync:\n"
            "            os.fsync(f.fileno())\n"
            "            os.fsync(os.open('/root', os.O_RDONLY))\n"
        )
        out(lab, ONE, "python3", "-c", script)
        assert out(lab, ONE, "stat", "-c%s", "/root/synced", "/root/unsynced").split() == ["100000", "100000"]
        lab.power_cut(ONE)
        assert lab.states()[ONE] == "stopped"
        lab.up([ONE])
        assert len(out(lab, ONE, "cat", "/root/synced")) == 100000
        assert lab.exec(ONE, ["grep", "-q", "x", "/root/unsynced"]).returncode != 0

    def test_a_power_cut_tells_nobody(self, lab: Lab) -> None:
        address = (lab.host(ONE).address, 22)
        with socket.create_connection(address, timeout=3) as line:
            line.recv(100)
            lab.power_cut(ONE)
            line.settimeout(2)
            with pytest.raises(TimeoutError):  # neither closed nor reset: silence
                line.recv(100)
        with pytest.raises(OSError, match=r"timed out|No route"):
            socket.create_connection(address, timeout=2)

    def test_a_power_cut_ends_what_exec_started(self, lab: Lab) -> None:
        with subprocess.Popen(lab.host(ONE).command(["sleep", "600"])) as inside:
            time.sleep(0.3)
            lab.power_cut(ONE)
            assert inside.wait(5) == -signal.SIGKILL

    def test_a_copy_of_the_disk_is_what_was_synced(self, lab: Lab, tmp_path: Path) -> None:
        out(lab, ONE, "sh", "-c", "echo durable >/root/durable && sync -f /root/durable")
        copy = tmp_path / "crash.img"
        subprocess.run(["cp", "--sparse=always", lab.host(ONE).disk_image, copy], check=True)
        look = 'mount -o loop,nouuid "$1" "$2" && cat "$2/upper/root/durable"'
        shown = subprocess.run(
            ["unshare", "--mount", "sh", "-c", look, "sh", copy, tmp_path], capture_output=True, text=True, check=True
        )
        assert shown.stdout == "durable\n"

    def test_freeze_keeps_connections_and_thaw_goes_on(self, lab: Lab) -> None:
        with socket.create_connection((lab.host(ONE).address, 22), timeout=3) as line:
            line.recv(100)
            lab.freeze(ONE)
            assert lab.states()[ONE] == "frozen"
            with pytest.raises(Failure, match="frozen"):
                lab.exec(ONE, ["true"])
            line.sendall(b"SSH-2.0-test\r\n")
            line.settimeout(1)
            with pytest.raises(TimeoutError):
                line.recv(100)
            lab.thaw(ONE)
            line.settimeout(5)
            assert line.recv(100)
        assert lab.states()[ONE] == "running"

    def test_a_frozen_host_can_lose_power(self, lab: Lab) -> None:
        lab.freeze(ONE)
        lab.power_cut(ONE)
        assert lab.states()[ONE] == "stopped"

    def test_a_host_that_is_off_says_so(self, lab: Lab) -> None:
        lab.power_cut(ONE)
        for act in (lab.freeze, lab.unplug, lab.plug, lab.fill_disk):
            with pytest.raises(Failure, match="is off") as caught:
                act(ONE)
            assert "lab.up" in caught.value.hint
        lab.power_cut(ONE)  # once more is no error: it is off


class TestDisk:
    def test_a_full_disk_is_one_host_s_alone(self, lab: Lab) -> None:
        assert lab.fill_disk(ONE) > 0
        done = lab.exec(ONE, ["dd", "if=/dev/zero", "of=/root/more", "bs=4k", "count=64"])
        assert "No space left" in done.stderr
        out(lab, OTHER, "dd", "if=/dev/zero", "of=/root/more", "bs=4k", "count=64")
        lab.heal()
        out(lab, ONE, "dd", "if=/dev/zero", "of=/root/more", "bs=4k", "count=64")

    def test_a_full_disk_is_healed_on_a_host_that_is_off(self, lab: Lab) -> None:
        lab.fill_disk(ONE)
        lab.power_cut(ONE)
        lab.heal()
        lab.up([ONE])
        out(lab, ONE, "dd", "if=/dev/zero", "of=/root/more", "bs=4k", "count=64")

    def test_a_snapshot_brings_all_hosts_back(self, lab: Lab) -> None:
        for name in NAMES:
            out(lab, name, "sh", "-c", "echo before >/root/when")
        locked = lab.place.inventory / PACKAGES_FILE
        locked.write_text("# before\n")
        lab.snapshot("before")
        locked.write_text("# after\n")
        try:
            assert lab.snapshots() == ["before"]
            assert {lab.states()[name] for name in NAMES} == {"running"}
            for name in NAMES:
                out(lab, name, "sh", "-c", "echo after >/root/when")
            with pytest.raises(Failure, match="already"):
                lab.snapshot("before")
            lab.power_cut(ONE)
            lab.restore("before")
            assert {out(lab, name, "cat", "/root/when") for name in NAMES} == {"before\n"}
            assert locked.read_text() == "# before\n"  # it names what the disks have
            assert ssh(lab, ONE, "true").returncode == 0
        finally:
            lab.drop_snapshot("before")
            locked.unlink()
        with pytest.raises(Failure, match="no snapshot"):
            lab.restore("before")


class TestLabs:
    def test_two_labs_beside_each_other(self, lab: Lab) -> None:
        other = Lab.named("t-beside")
        other.destroy()
        try:
            other.up([ONE], volatile=True)
            mine, theirs = network.block_of(lab.place), network.block_of(other.place)
            assert mine is not None
            assert theirs is not None
            assert not mine.overlaps(theirs)
            assert other.environment.host(ONE).address != lab.environment.host(ONE).address
            assert not lab_reaches(lab, other.host(ONE))
            assert ssh(other, ONE, "true").returncode == 0
            assert _cache_stores(lab).isdisjoint(_cache_stores(other))
            out(other, ONE, "apt-get", "update")
            with pytest.raises(Failure, match="no disk of its own"):
                other.fill_disk(ONE)
            with pytest.raises(Failure, match="no disk to copy"):
                other.snapshot("x")
        finally:
            other.destroy()
        assert leftovers(other.name) == []
        assert lab.states()[ONE] == "running"

    @pytest.mark.parametrize("after", [0.4, 0.8, 1.2, 1.6, 2.0])
    def test_destroy_cleans_up_after_a_crash_at_any_point(self, after: float) -> None:
        name = "t-crash"
        Lab.named(name).destroy()
        environment = {**os.environ, "LONGHAUL_LAB": name}
        starting = subprocess.Popen(
            [ROOT / "inv", "lab.up", *NAMES], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(after)
        starting.kill()
        starting.wait()
        Lab.named(name).destroy()
        assert leftovers(name) == []

    def test_a_lab_half_up_is_completed(self) -> None:
        name = "t-crash"
        half = Lab.named(name)
        half.destroy()
        try:
            half.up([ONE])
            subprocess.run(["ip", "link", "delete", half.place.cable], check=True)
            half.host(ONE).clear_away()
            (half.host(ONE).directory / "image").unlink()  # as if its making had been cut short
            half.up([ONE, OTHER])
            assert ssh(half, ONE, "true").returncode == 0
            assert pings(half, ONE, OTHER)
        finally:
            half.destroy()


def lab_reaches(lab: Lab, host: LabHost) -> bool:
    """Whether a host of one lab reaches a host of another."""
    return lab.exec(ONE, ["ping", "-c1", "-W1", "-q", host.address]).returncode == 0


def _cache_stores(lab: Lab) -> set[str]:
    configuration = (lab.place.directory / "cache/acng.conf").read_text().splitlines()
    return {line for line in configuration if line.startswith("CacheDir:")}


class TestCommands:
    def inv(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "inv", *words],
            env={**os.environ, "LONGHAUL_LAB": "t-lab"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def test_exec_passes_words_and_code(self, lab: Lab) -> None:
        done = self.inv("lab.exec", ONE, "--", "sh", "-c", "echo 'two  words'; exit 5")
        assert (done.stdout, done.returncode) == ("two  words\n", 5)

    def test_names_of_hosts_stand_before_or_behind_options(self, lab: Lab) -> None:
        for words in ([ONE, OTHER, "--volatile"], ["--volatile", ONE, OTHER]):
            done = self.inv("lab.up", *words)
            assert done.returncode == 0, done.stderr
            assert "2 hosts are up" in done.stderr

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (["lab.up", "nohost"], 64, "no host 'nohost'"),
            (["lab.up", "--rehearse=noenv"], 64, "no environment 'noenv'"),
            (["lab.exec", "nohost", "--", "true"], 64, "no host 'nohost'"),
            (["lab.exec", ONE], 64, "No command"),
            (["lab.shape", ONE, "fast"], 64, "not a rate"),
            (["lab.partition", ONE, ONE], 64, "itself"),
            (["lab.restore", "nothing"], 64, "no snapshot"),
            (["lab.exec", "lb1", "--", "true"], 75, "is off"),
            (["lab.destroy"], 64, "--yes"),
        ],
    )
    def test_bad_input_is_told_what_to_do(self, lab: Lab, words: list[str], code: int, said: str) -> None:
        done = self.inv(*words)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
