"""Checks that this machine can run a lab, before anything is started, and installs missing packages."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ops.console import console
from ops.errors import Exit, Failure
from ops.lab import cgroups, image, sources
from ops.lab.place import IMAGES, LABS

# Program -> Debian package that brings it.
PROGRAMS = {
    "apt-cacher-ng": "apt-cacher-ng",
    "ip": "iproute2",
    "tc": "iproute2",
    "mkfs.xfs": "xfsprogs",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "setsid": "util-linux",
    "unshare": "util-linux",
}
FILES = {sources.KEYRING: "debian-archive-keyring"}
LOOP_CONTROL = Path("/dev/loop-control")
INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
CACHE_UNIT = "apt-cacher-ng.service"
# Another process may be installing something; in seconds.
_WAIT_FOR_DPKG = ("-o", "DPkg::Lock::Timeout=120")

# Measured: an image is 0.3 GB; a host with its role's packages grows to about 1 GB; uploads of tests come on top.
IMAGE_BYTES = 600_000_000
HOST_BYTES = 1_000_000_000
# Measured: five of systemd itself, and one to spare.
HOST_INOTIFY = 6
SPARE_BYTES = 2_000_000_000


def require_root() -> None:
    """Raises Failure unless this process may make namespaces and mounts."""
    if os.geteuid() != 0:
        raise Failure(
            "The lab makes network namespaces and mounts, which only root may do.",
            "Run the same command as root: sudo ./inv ...",
            Exit.NO_PERMISSION,
        )


def missing_packages() -> list[str]:
    """Debian packages that the lab needs and this machine lacks."""
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program, path=_path()) is None}
    missing |= {package for file, package in FILES.items() if not file.exists()}
    return sorted(missing)


def _path() -> str:
    """PATH with the folders for root's programs, which some logins leave out."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def ensure_packages() -> None:
    """Installs what the lab needs, with apt-get.

    Raises Failure if apt-get fails; without apt-get, Failure with the names of the missing packages.
    """
    missing = missing_packages()
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise Failure(f"This machine cannot run the lab: {_lacks(missing)}", _packages(missing), Exit.UNAVAILABLE)
    require_root()
    with _alone():
        _install_missing()
    left = missing_packages()
    if left:
        raise Failure(
            f"apt-get installed everything, but {', '.join(_programs_of(left))} cannot be found.",
            f"See what is wrong with the packages: dpkg -l {' '.join(left)}",
            Exit.UNAVAILABLE,
        )


def install(*packages: str) -> None:
    """Installs Debian packages on the machine. Raises Failure if apt-get fails or if this is not root."""
    require_root()
    with _alone():
        _apt_get("update")
        _apt_get("install", *packages)


def _install_missing() -> None:
    missing = missing_packages()
    if not missing:
        return  # another lab, which started at the same time, has installed them
    console.print(f"installing what the lab needs on this machine: {' '.join(missing)}")
    _apt_get("update")
    others = [package for package in missing if package != "apt-cacher-ng"]
    if others:
        _apt_get("install", *others)
    if "apt-cacher-ng" in missing:
        _install_cache_unstarted()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Lets one lab of this machine install at a time: apt-get fails at once if another one is updating its lists."""
    LABS.mkdir(parents=True, exist_ok=True)
    with (LABS.parent / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lacks(packages: list[str]) -> str:
    return f"it has no {', '.join(_programs_of(packages))}"


def _packages(packages: list[str]) -> str:
    return f"install them; Debian calls their packages: {' '.join(packages)}"


def _programs_of(packages: list[str]) -> list[str]:
    named = [program for program, package in PROGRAMS.items() if package in packages]
    return named + [str(file) for file, package in FILES.items() if package in packages]


def _apt_get(*words: str, prefix: tuple[str, ...] = ()) -> None:
    done = subprocess.run(
        [*prefix, "apt-get", "--quiet", "--yes", "--no-install-recommends", *_WAIT_FOR_DPKG, *words],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(
            f"apt-get {' '.join(words)} failed:\n{(done.stderr or done.stdout).strip()[-3000:]}",
            "Correct this machine's package sources and run the same command again.",
            Exit.UNAVAILABLE,
        )


def _install_cache_unstarted() -> None:
    """Installs apt-cacher-ng without its own service, which must run neither now nor after the next boot.

    Its unit is masked before it exists. If systemd is not PID 1, the package would start the service by invoke-rc.d:
    for this installation only, in a mount namespace, a program that does nothing replaces invoke-rc.d.
    """
    mask = Path("/etc/systemd/system") / CACHE_UNIT
    mask.parent.mkdir(parents=True, exist_ok=True)
    if not mask.is_symlink():
        mask.symlink_to("/dev/null")
    silence = 'mount --bind /bin/true "$(command -v invoke-rc.d)" && exec "$@"'
    _apt_get("install", "apt-cacher-ng", prefix=("unshare", "--mount", "/bin/sh", "-c", silence, "sh"))
    if shutil.which("update-rc.d"):
        subprocess.run(["update-rc.d", "apt-cacher-ng", "disable"], check=False, capture_output=True)


def require_capable(new_hosts: int) -> None:
    """Raises Failure with every reason why a lab with `new_hosts` more hosts cannot run here."""
    problems = list(_problems(new_hosts))
    if problems:
        raise Failure(
            "This machine cannot run the lab:\n" + "\n".join(f"  - {problem}" for problem, _ in problems),
            "\n" + "\n".join(f"  - {remedy}" for _, remedy in problems),
            Exit.UNAVAILABLE,
        )


def _problems(new_hosts: int) -> list[tuple[str, str]]:
    """Pairs of what is wrong and what to do about it."""
    if platform.system() != "Linux":
        return [(f"it runs {platform.system()}", "use a Linux machine, real or virtual")]
    found = []
    if os.geteuid() != 0:
        found.append(("the lab makes namespaces and mounts, which only root may do", "sudo ./inv ..."))
    missing = missing_packages()
    if missing and shutil.which("apt-get") is None:  # otherwise ensure_packages installs them
        found.append((_lacks(missing), _packages(missing)))
    group = cgroups.mount_point()
    if group is None:
        found.append(("it has no cgroup v2 hierarchy", "mount one: mount -t cgroup2 none /sys/fs/cgroup/unified"))
    elif os.geteuid() == 0 and not os.access(group / "cgroup.procs", os.W_OK):
        found.append((f"{group} is read-only", "leave the container, or give it a writable cgroup tree"))
    found += [
        (f"its kernel has no {kind}", f"modprobe {kind}, or use a kernel that has it")
        for kind in ("overlay", "xfs")
        if not _filesystem(kind)
    ]
    if not LOOP_CONTROL.exists():
        found.append(("it has no loop devices (/dev/loop-control)", "modprobe loop, or give the container /dev/loop*"))
    if os.geteuid() == 0 and "iproute2" not in missing:  # otherwise this cannot be tested
        found += [
            (f"its kernel cannot make a network interface of type {kind}", f"modprobe {kind}")
            for kind in ("bridge", "veth")
            if not _link_type(kind)
        ]
    needed = SPARE_BYTES + new_hosts * HOST_BYTES + (0 if image.exists() else IMAGE_BYTES)
    for place in {_device(LABS): LABS, _device(IMAGES): IMAGES}.values():
        free = shutil.disk_usage(_existing(place)).free
        if free < needed:
            found.append(
                (
                    f"{place} has {free / 1e9:.1f} GB free, and {new_hosts} new hosts need {needed / 1e9:.1f} GB",
                    "free some, destroy labs that nobody needs (lab.destroy), or name fewer hosts (lab.up web1)",
                )
            )
    if os.geteuid() == 0 and (left := _inotify_left()) < new_hosts * HOST_INOTIFY:
        found.append(
            (
                f"its kernel lets root have {left} more inotify instances, and {new_hosts} new hosts need "
                f"{new_hosts * HOST_INOTIFY}: systemd would not start in them",
                f"sysctl fs.inotify.{INOTIFY_LIMIT.name}=1024, or destroy labs that nobody needs (lab.destroy)",
            )
        )
    return found


def room_for_hosts() -> int:
    """How many more hosts the kernel lets systemd start in, beside those that run."""
    return max(0, _inotify_left() // HOST_INOTIFY)


def _inotify_left() -> int:
    """How many more instances of inotify(7) root may make; those in the hosts of all labs count too."""
    used = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if process.stat().st_uid == 0:
                used += inotify_instances(process)
    return int(INOTIFY_LIMIT.read_text()) - used


def inotify_instances(process: Path) -> int:
    """How many inotify instances a process has, by its folder in /proc."""
    found = 0
    for file in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += str(file.readlink()) == "anon_inode:inotify"
    return found


def _filesystem(kind: str) -> bool:
    listed = Path("/proc/filesystems").read_text().split()
    if kind in listed:
        return True
    if shutil.which("modprobe", path=_path()):
        subprocess.run(["modprobe", kind], check=False, capture_output=True)
    return kind in Path("/proc/filesystems").read_text().split()


def _link_type(kind: str) -> bool:
    """Whether the kernel knows the type of interface; tests it in a network namespace that ends at once."""
    asked = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "asked", "type", kind], check=False, capture_output=True
    )
    return asked.returncode == 0


def _existing(place: Path) -> Path:
    return next(path for path in (place, *place.parents) if path.exists())


def _device(place: Path) -> int:
    return _existing(place).stat().st_dev
