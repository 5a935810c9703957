# SPDX-License-Identifier: MIT
"""Who runs, from /proc, and how to reach exactly that process.

psutil is the oracle of the tests and serves the preview; here every microsecond is spent while a machine is going down,
and a process is held by its pidfd, so that a signal can never reach a stranger who inherited the number.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from kexecd.kernel.guard import forbid_in_tests
from kexecd.model import Process

PF_KTHREAD = 0x00200000  # include/linux/sched.h


def scan() -> tuple[Process, ...]:
    """Every process that still is one; a zombie with no thread left is not."""
    return tuple(process for name in os.listdir("/proc") if name.isdecimal() and (process := read(int(name))))


def read(pid: int) -> Process | None:
    """One process, or None if it is gone."""
    directory = f"/proc/{pid}"
    try:
        stat = _slurp(f"{directory}/stat")
        # The name is in parentheses and may itself hold any character, ") R 1" for one.
        name, _, rest = stat.partition("(")[2].rpartition(")")
        fields = rest.split()
        state, flags, threads = fields[0], int(fields[6]), int(fields[17])
        if state in "ZX" and threads <= 1:
            return None
        kernel_thread = bool(flags & PF_KTHREAD)
        # Reading cmdline takes the process's mmap lock: beside one in uninterruptible sleep that may never return.
        readable = not kernel_thread and state != "D"
        return Process(
            pid=pid,
            ppid=int(fields[1]),
            start=int(fields[19]),
            state=state,
            name=name,
            argv0=_slurp(f"{directory}/cmdline").partition("\0")[0] if readable else "",
            uid=os.stat(directory).st_uid,
            cgroup="" if kernel_thread else _unified_cgroup(_slurp(f"{directory}/cgroup")),
            kernel_thread=kernel_thread,
        )
    except (FileNotFoundError, ProcessLookupError, IndexError, ValueError):
        return None


def ancestors(pid: int) -> frozenset[int]:
    """`pid` and every process above it."""
    line = set()
    while pid > 0 and pid not in line and (process := read(pid)):
        line.add(pid)
        pid = process.ppid
    return frozenset(line)


def open_pidfd(process: Process) -> int | None:
    """A pidfd of exactly this process, readable when it has ended; None if it is gone."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    now = read(process.pid)
    if now is None or now.start != process.start:  # the number went to somebody else
        os.close(fd)
        return None
    return fd


def send(fd: int, number: signal.Signals) -> bool:
    """Signal the process behind a pidfd; False if it has ended."""
    forbid_in_tests("send a signal")
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    return True


def holders(point: str) -> Iterator[tuple[Process, str]]:
    """Who keeps a mount busy, each once, with the path by which: open files, directories, programs.

    Links are read and never followed, so a filesystem that does not answer is not asked.
    """
    for process in scan():
        path = next((path for path in _held(process.pid) if path == point or path.startswith(f"{point}/")), "")
        if path:
            yield process, path


def waits_on(pid: int) -> str:
    """The kernel function in which a process sleeps, for the name of the one that cannot be killed; may be empty."""
    try:
        wchan = _slurp(f"/proc/{pid}/wchan")
    except OSError:
        return ""
    return "" if wchan == "0" else wchan


def _held(pid: int) -> Iterator[str]:
    directory = f"/proc/{pid}"
    try:
        names = [f"fd/{name}" for name in os.listdir(f"{directory}/fd")]
    except OSError:
        names = []
    for name in ("cwd", "root", "exe", *names):
        try:
            yield os.readlink(f"{directory}/{name}")
        except OSError:  # it has ended, or is a kernel thread
            continue


def _slurp(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16).decode(errors="surrogateescape")
    finally:
        os.close(fd)


def _unified_cgroup(text: str) -> str:
    for line in text.splitlines():
        if line.startswith("0::"):
            return line[3:]
    return ""
