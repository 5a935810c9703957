# SPDX-License-Identifier: MIT
"""A machine of its own for one kexecctl, down to the act: its own processes, its own mounts, its own disk.

What makes it safe to walk the real way down in it:

- Its PID namespace: killing everything reaches nobody outside, and reboot(2) is not the machine's. Of a process outside
  the initial PID namespace the kernel takes a restart for the end of that namespace, and a kexec for EINVAL
  (kernel/pid_namespace.c, reboot_pid_ns). So the act is really done, and how the namespace ended proves it.
- Its root is an ext4 on a loop device, made for it, and the only disk in sight: that one is remounted read-only.
- Its /proc is read-only, so that nobody reaches the machine's sysrq; it is tried before anything else.
- Nothing else is mounted, which is looked at too. It has no /sys and no device but /dev/null, so that nobody else's
  loop device, swap or disk can be named; a plain file says what sysfs says where an image is loaded.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from kexecd.kernel import mountinfo, sysfs
from kexecd.model import FileRecord, ImageRecord, LoadMethod

TOP = Path(__file__).parents[1]
PYTHON = Path("/usr/bin/python3")
UNUSED = ("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "distutils", "pydoc_data", "config-*")

CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000  # include/uapi/linux/sched.h
MS_RDONLY, MS_REC_PRIVATE = 1, 0x4000 | 1 << 18  # include/uapi/linux/mount.h
MNT_DETACH = 2
IMAGE_MIB = 160

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Walk:
    """milliseconds: CPU time of kexecctl and everybody that it started. restarted: whether the act was done."""

    milliseconds: float
    restarted: bool
    said: str


def make_disk(directory: Path, files: Mapping[str, Path] | None = None) -> Path:
    """An ext4 image with Python, kexecd installed as its user would, and `files`, by their paths in it."""
    root, image = directory / "root", directory / "root.img"
    stdlib = Path(sysconfig.get_path("stdlib", vars={"installed_base": "/usr"}))
    shutil.copytree(stdlib, root / stdlib.relative_to("/"), ignore=shutil.ignore_patterns(*UNUSED))
    _copy(PYTHON.resolve(), root)
    (root / "usr/bin/python3").symlink_to(PYTHON.resolve().name)
    for library in _libraries([PYTHON, *stdlib.glob("lib-dynload/*.so")]):
        _copy(library, root)
    for packages in Path("/usr/lib/python3/dist-packages").glob("psutil"):
        shutil.copytree(packages, root / packages.relative_to("/"))
    _run("make", "-C", TOP, "install", f"DESTDIR={root}", "PREFIX=/usr")
    for name in ("dev", "proc", "run", "tmp", "old", "var/lib/kexecd", "sys/kernel"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "sys/kernel/kexec_loaded").write_text("1\n")
    for place, source in (files or {}).items():
        shutil.copyfile(source, root / place.lstrip("/"))
    with image.open("wb") as file:
        file.truncate(IMAGE_MIB << 20)
    _run("mke2fs", "-q", "-t", "ext4", "-d", root, image)
    shutil.rmtree(root)
    return image


def walk(image: Path, *arguments: str, program: tuple[str, ...] = ("/usr/sbin/kexecctl",)) -> Walk:
    """Run kexecctl, or another program, in a new machine on a copy of `image`, until that machine has ended."""
    disk = image.with_name("used.img")
    shutil.copyfile(image, disk)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _or_die(lambda: _enter(disk, (*program, *arguments), writer), writer)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, said
    said, _, told = said.rpartition("\n")
    result = json.loads(told)
    return Walk(result["milliseconds"], os.WIFSIGNALED(result["status"]) and result["signal"] == signal.SIGHUP, said)


def _enter(disk: Path, arguments: tuple[str, ...], writer: int) -> NoReturn:
    """In the child: make the namespaces, wait for their end, and tell what they took."""
    _check(_libc.unshare(CLONE_NEWNS))
    _mount("none", "/", "", MS_REC_PRIVATE)
    group = _Group(disk.with_name("cgroups"))
    point = disk.with_name("point")
    point.mkdir(exist_ok=True)
    _run("mount", "-o", "loop", disk, point)
    os.chdir(point)
    _run("pivot_root", ".", "old")
    os.chdir("/")
    _check(_libc.umount2(b"/old", MNT_DETACH))
    _check(_libc.unshare(CLONE_NEWPID))
    before, spent = os.pipe()
    first = os.fork()
    if first == 0:
        _or_die(lambda: _first_process(arguments, writer, spent, group), writer)
    os.close(spent)
    _, status = os.waitpid(first, 0)
    with open(before, "rb") as file:
        milliseconds = group.milliseconds() - float(file.read() or b"0")
    group.leave()
    told = {"milliseconds": milliseconds, "status": status, "signal": os.WTERMSIG(status)}
    os.write(writer, f"\n{json.dumps(told)}".encode())
    os._exit(0)


class _Group:
    """A control group for this process and its children, for what they take: of children that nobody waits for, as at
    the end of a PID namespace, wait4(2) tells nothing. cpu.stat is there without any controller (cgroups(7))."""

    def __init__(self, point: Path) -> None:
        point.mkdir(exist_ok=True)
        _mount("cgroup2", str(point), "cgroup2")
        self._name = f"kexecd-perf-{os.getpid()}"
        (point / self._name).mkdir()
        (point / self._name / "cgroup.procs").write_text("0")
        self._top = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
        self._stat = os.open(point / self._name / "cpu.stat", os.O_RDONLY)

    def milliseconds(self) -> float:
        """User and system time of everybody in it, those who are gone included."""
        lines = os.pread(self._stat, 4096, 0).decode().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("usage_usec")) / 1000

    def leave(self) -> None:
        """Back to the top, and take it away."""
        procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=self._top)
        os.write(procs, b"0")
        os.close(procs)
        os.rmdir(self._name, dir_fd=self._top)


def _first_process(arguments: tuple[str, ...], writer: int, spent: int, group: _Group) -> NoReturn:
    """PID 1: put in place what a running machine has, start kexecctl, collect orphans until the end."""
    _mount("proc", "/proc", "proc", MS_RDONLY)
    try:
        os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))
        raise AssertionError("the machine's sysrq can be reached")
    except OSError as error:
        assert error.errno in (errno.EROFS, errno.ENOENT), error
    for point in ("/run", "/tmp", "/dev"):
        _mount("tmpfs", point, "tmpfs")
    seen = {mount.point: mount.fstype for mount in mountinfo.read()}
    assert seen == {"/": "ext4", "/proc": "proc", "/run": "tmpfs", "/tmp": "tmpfs", "/dev": "tmpfs"}, seen
    os.mknod("/dev/null", 0o666 | 0o020000, os.makedev(1, 3))
    os.mkdir("/run/kexecd")
    Path("/run/kexecd/image.json").write_text(json.dumps({"boot_id": sysfs.boot_id(), **asdict(_image())}))
    os.write(spent, str(group.milliseconds()).encode())
    os.close(spent)
    if os.fork() == 0:
        null = os.open("/dev/null", os.O_RDWR)
        for ours, theirs in ((null, 0), (writer, 1), (writer, 2)):
            os.dup2(ours, theirs)
        os.execve(arguments[0], arguments, {"PATH": "/usr/bin"})
    os.close(writer)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        os._exit(1)  # nobody has restarted anything


def _image() -> ImageRecord:
    """The record of an image that is in memory, as far as this machine can tell."""
    file = FileRecord("/boot/vmlinuz", 1, "0" * 64)
    return ImageRecord("entry", "6.1.0", file, (), "root=/dev/sda", "0" * 16, LoadMethod.KEXEC_FILE_LOAD, 0.0)


def _or_die(body: Callable[[], None], writer: int) -> NoReturn:
    try:
        body()
    except BaseException as error:
        os.write(writer, f"{error!r}".encode())
    os._exit(1)


def _libraries(files: list[Path]) -> set[Path]:
    """What the dynamic linker finds for these, the linker itself included."""
    listed = subprocess.run(["ldd", *files], stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout
    words = (word for line in listed.splitlines() if not line.endswith(":") for word in line.split())
    return {Path(word) for word in words if word.startswith("/")}


def _copy(file: Path, root: Path) -> None:
    place = root / file.relative_to("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file, place)


def _mount(source: str, point: str, fstype: str, flags: int = 0) -> None:
    _check(_libc.mount(source.encode(), point.encode(), fstype.encode() or None, ctypes.c_ulong(flags), None))


def _run(*words: str | Path) -> None:
    subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, timeout=120)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
