# SPDX-License-Identifier: MIT
"""Filesystems of every kind for the tests of the way down, all real: on loop devices, on FUSE, in other namespaces."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kexecd.kernel import block, mountinfo, syscalls
from kexecd.kernel.block import Storage
from kexecd.kernel.namespaces import Namespace, others
from kexecd.model import Mount
from kexecd.teardown.graph import Graph, build_from
from kexecd.teardown.verdict import Remains
from tests.namespaces.stage import command

libc = ctypes.CDLL(None, use_errno=True)

MAKE = {"ext4": ("mke2fs", "-q", "-t", "ext4"), "xfs": ("mkfs.xfs", "-q"), "btrfs": ("mkfs.btrfs", "-q")}
CHECK = {"ext4": ("e2fsck", "-f", "-n"), "xfs": ("xfs_repair", "-n"), "btrfs": ("btrfs", "check", "--readonly")}
SMALLEST = {"ext4": 16, "xfs": 300, "btrfs": 128}  # MiB


def image(directory: Path, name: str, fstype: str = "", *, mib: int = 0) -> Path:
    """A file with a filesystem in it."""
    path = directory / f"{name}.img"
    with path.open("wb") as file:
        file.truncate((mib or SMALLEST[fstype]) << 20)
    if fstype:
        command(*MAKE[fstype], path)
    return path


def mount(what: str | Path, point: Path, *options: str) -> Path:
    point.mkdir(parents=True, exist_ok=True)
    command("mount", *options, what, point)
    return point


def disk(directory: Path, name: str, fstype: str = "ext4", *, mib: int = 0) -> Path:
    """One on a loop device that goes with it, mounted read-write; returns its mount point."""
    return mount(image(directory, name, fstype, mib=mib), directory / name, "-o", "loop")


def replays(path: Path, fstype: str) -> bool:
    """Whether the next mount would find it unclean: a journal to replay, or anything to mend."""
    if fstype == "ext4":
        shown = subprocess.run(["dumpe2fs", "-h", path], capture_output=True, text=True, check=True, timeout=60)
        if "needs_recovery" in shown.stdout:
            return True
    return subprocess.run([*CHECK[fstype], path], capture_output=True, check=False, timeout=60).returncode != 0


def below(directory: Path) -> Callable[[], tuple[Mount, ...]]:
    """The mounts of this namespace that are below a directory."""
    return lambda: tuple(mount for mount in mountinfo.read() if mount.point.startswith(f"{directory}/"))


def storage(directory: Path) -> Storage:
    """The loop devices and swap files that stand on files below a directory, and on each other."""
    mine = [loop for loop in block.loops() if loop.backing.startswith(f"{directory}/")]
    swaps = tuple(swap for swap in block.swaps() if swap.path.startswith(f"{directory}/"))
    names = {loop.device for loop in mine}
    mine += [loop for loop in block.loops() if loop.backing in names]
    return Storage(tuple(mine), (), swaps, block.pools())


def graph_below(directory: Path) -> Callable[[], Graph]:
    return lambda: build_from(below(directory)(), storage(directory))


def remains_below(directory: Path) -> Callable[[], Remains]:
    """What Verify sees of the machine: what is below a directory."""
    return lambda: Remains(below(directory)(), others_below(directory)(), storage(directory))


def others_below(directory: Path) -> Callable[[], tuple[Namespace, ...]]:
    """Other mount namespaces, with the mounts below a directory: the machine's own are in each copy as well."""
    return lambda: tuple(
        replace(namespace, mounts=tuple(m for m in namespace.mounts if m.point.startswith(f"{directory}/")))
        for namespace in others()
    )


def in_namespace(
    work: Callable[[], None] | None = None, *, processor: int | None = None
) -> tuple[int, Callable[[], None]]:
    """A process in a mount namespace of its own, with a copy of every mount; its pid, and what ends it.

    work: done in there before it is reported as ready; what it opens stays open.
    """
    reader, writer = os.pipe()
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        if processor is not None:
            os.sched_setaffinity(0, {processor})
        failed = libc.unshare(syscalls.CLONE_NEWNS)
        libc.mount(b"none", b"/", None, ctypes.c_ulong(0x4000 | 1 << 18), None)  # MS_REC | MS_PRIVATE
        if work:
            work()
        os.write(tell, b"no" if failed else b"ok")
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    os.close(tell)
    assert os.read(ready, 2) == b"ok"

    def end() -> None:
        os.close(writer)
        os.waitpid(pid, 0)

    return pid, end


def namespace_of(pid: int) -> Namespace:
    return next(namespace for namespace in others() if namespace.pid == pid)


class Fuse:
    """A FUSE filesystem with one file, `disk`, whose content is in its daemon's memory (include/uapi/linux/fuse.h)."""

    HEADER = struct.Struct("=IIQQIIII")
    ATTR = struct.Struct("=QQQQQQIIIIIIIIII")

    def __init__(self, point: Path, *, mib: int = 16) -> None:
        point.mkdir(exist_ok=True)
        self.point, self._data = point, bytearray(mib << 20)
        fd = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if libc.mount(b"kexecd", os.fsencode(point), b"fuse.test", ctypes.c_ulong(0), options):
            raise OSError(ctypes.get_errno(), "mount")
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._serve(fd)
            finally:
                os._exit(0)
        os.close(fd)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def _serve(self, fd: int) -> None:
        while True:
            try:
                request = os.read(fd, 1 << 21)
            except OSError:  # unmounted
                return
            _, opcode, unique, node, *_ = self.HEADER.unpack_from(request)
            body = self._answer(opcode, node, request[self.HEADER.size :])
            if body is not None:
                error, data = (-body, b"") if isinstance(body, int) else (0, body)
                os.write(fd, struct.pack("=IiQ", 16 + len(data), error, unique) + data)

    def _answer(self, opcode: int, node: int, body: bytes) -> bytes | int | None:
        match opcode:
            case 26:  # INIT: 7.31, writes of 1 MiB
                return struct.pack("=IIIIHHIIHHI28x", 7, 31, 1 << 20, 0, 16, 16, 1 << 20, 1, 256, 0, 0)
            case 1:  # LOOKUP
                return struct.pack("=QQQQII", 2, 0, 0, 0, 0, 0) + self._attr(2) if body == b"disk\0" else 2
            case 3 | 4:  # GETATTR, SETATTR
                return struct.pack("=QII", 0, 0, 0) + self._attr(node)
            case 14 | 27:  # OPEN, OPENDIR
                return struct.pack("=QII", 0, 0, 0)
            case 15:  # READ
                _, offset, size = struct.unpack_from("=QQI", body)
                return bytes(self._data[offset : offset + size])
            case 16:  # WRITE
                _, offset, size = struct.unpack_from("=QQI", body)
                self._data[offset : offset + size] = body[40 : 40 + size]
                return struct.pack("=II", size, 0)
            case 18 | 20 | 25 | 29:  # RELEASE, FSYNC, FLUSH, RELEASEDIR
                return b""
            case 2 | 36 | 42:  # FORGET, INTERRUPT, BATCH_FORGET: no answer
                return None
        return 38  # ENOSYS

    def _attr(self, node: int) -> bytes:
        mode, size = (0o40755, 4096) if node == 1 else (0o100600, len(self._data))
        return self.ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
