# SPDX-License-Identifier: MIT
"""A kernel to test against: the files in which it tells about itself, and the calls that it answers as scripted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kexecd.kernel.files import open_regular
from kexecd.loader import load
from kexecd.model import BootEntry, BootTarget, ImageRecord, Source

MEMINFO = """\
MemTotal:        4000000 kB
MemAvailable:    2048000 kB
Dirty:               100 kB
Writeback:            28 kB
WritebackTmp:          0 kB
HugePages_Total:       0
"""
CMDLINE = "root=/dev/vda1 ro kexecd.nonce=0123456789abcdef"
KERNEL, MICROCODE, INITRD = b"a kernel" * 1000, b"microcode", b"an initrd" * 700
BOOT_ID = "6f1d3c2e-0f5a-4e7b-9a57-111111111111"


class KernelTree:
    """A root directory with what /proc and /sys of a machine say on which kexec is possible."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.path = root
        self.write("proc/self/status", "Name:\tkexecctl\nCapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n")
        self.write("proc/sys/kernel/random/boot_id", BOOT_ID + "\n")
        self.write("proc/sys/kernel/kexec_load_disabled", "0\n")
        self.write("proc/sys/kernel/kexec_load_limit_reboot", "-1\n")
        self.write("proc/cmdline", "root=/dev/vda1 ro\n")
        self.write("proc/meminfo", MEMINFO)
        self.write("sys/kernel/kexec_loaded", "0\n")
        self.write("sys/kernel/kexec_crash_loaded", "0\n")

    def write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def remove(self, name: str) -> None:
        (self.path / name).unlink()

    @property
    def loaded(self) -> bool:
        return (self.path / "sys/kernel/kexec_loaded").read_text() == "1\n"

    @loaded.setter
    def loaded(self, value: bool) -> None:
        self.write("sys/kernel/kexec_loaded", f"{int(value)}\n")


@dataclass(frozen=True)
class Load:
    """One kexec_file_load(2) as the kernel saw it."""

    kernel: bytes
    initrd: bytes | None
    cmdline: bytes
    flags: int


@dataclass
class FakeKernel:
    """Answers the next load, and the next unload, with the next errno of its script; 0, and then success, for ever."""

    tree: KernelTree
    answers: list[int] = field(default_factory=list)
    unload_answers: list[int] = field(default_factory=list)
    tool: str = ""
    during_load: Callable[[], None] = lambda: None
    loads: list[Load] = field(default_factory=list)
    calls: int = 0

    def file_load(self, kernel_fd: int, initrd_fd: int, cmdline: bytes, flags: int) -> None:
        initrd = None if initrd_fd == -1 else content(initrd_fd)
        self.loads.append(Load(content(kernel_fd), initrd, cmdline, flags))
        self.during_load()
        self._answer(self.answers)
        self.tree.loaded = True

    def unload(self) -> None:
        self._answer(self.unload_answers)
        self.tree.loaded = False

    def tools(self) -> tuple[str, ...]:
        return (self.tool or "/nonexistent/kexec",)

    def _answer(self, script: list[int]) -> None:
        self.calls += 1
        number = script.pop(0) if script else 0
        if number:
            raise OSError(number, "kexec_file_load")


def content(fd: int) -> bytes:
    """All of it, whatever the file position; which the kernel does not look at either."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


class Clock:
    """Moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 50.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@contextmanager
def a_target(directory: Path) -> Iterator[BootTarget]:
    """A kernel with two initrds, the first of them of a length that is no multiple of 4."""
    entry = BootEntry(
        id="linux-6.1", title="Linux 6.1", version="6.1.0", source=Source.VERSIONED, kernel="/boot/vmlinuz-6.1.0"
    )
    files = []
    for name, data in (("vmlinuz", KERNEL), ("microcode", MICROCODE), ("initrd", INITRD)):
        (directory / name).write_bytes(data)
        files.append(open_regular(str(directory / name), "a test's boot target"))
    try:
        yield BootTarget(entry, files[0], tuple(files[1:]), CMDLINE, "0123456789abcdef")
    finally:
        for file in files:
            os.close(file.fd)


def put(target: BootTarget, kernel: FakeKernel, run_dir: str, clock: Clock | None = None) -> ImageRecord:
    """load(), into the fake kernel, at second 1000 of the epoch."""
    clock, root = clock or Clock(), kernel.tree.root
    return load(
        target, kernel=kernel, run_dir=run_dir, root=root, now=lambda: 1000.0, clock=clock.now, sleep=clock.sleep
    )


def forbid(tree: KernelTree, why: str) -> None:
    """Make a load hopeless."""
    match why:
        case "no capability":
            tree.write("proc/self/status", "CapEff:\t0000000000000000\n")
        case "switched off":
            tree.write("proc/sys/kernel/kexec_load_disabled", "1\n")
        case "limit used up":
            tree.write("proc/sys/kernel/kexec_load_limit_reboot", "0\n")
        case "no kexec":
            tree.remove("sys/kernel/kexec_loaded")
