# SPDX-License-Identifier: MIT
"""Who runs, from /proc (proc(5)).

psutil is the oracle of the tests and serves the preview; here every microsecond is spent while a machine is going down,
on each of thousands. So one file is read of everybody, and more only of those for whom somebody asks.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass

from kexecd.model import Process

PF_KTHREAD = 0x00200000  # include/linux/sched.h
STAT_SIZE = 512  # bytes: what is read of /proc/PID/stat, more than the fields up to the start time ever take
KTHREADD = 2  # the parent of all kernel threads; init/main.c, rest_init()

_kernel_threads: frozenset[int] = frozenset()
"""Of the last scan()."""


def pids() -> list[int]:
    """The number of every process, zombies and kernel threads among them.

    New ones come at the end of the listing: with somebody who forks without end it would have none, so it is cut there.
    """
    most = 2 * count_threads() + 512  # 512: more than /proc has of other entries
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in itertools.islice(entries, most) if entry.name.isdecimal()]


def scan() -> tuple[Process, ...]:
    """Every process that still is one; a zombie with no thread left is not."""
    global _kernel_threads  # noqa: PLW0603
    found = tuple(process for pid in pids() if (process := read(pid)))
    _kernel_threads = frozenset(process.pid for process in found if process.kernel_thread)
    return found


def kernel_threads() -> frozenset[int]:
    """The kernel threads of the last scan() that are still there, without a look at each: of a server with many CPUs
    they are most of what /proc has. Nobody, where that cannot be told.

    kthreadd's children are not enough: it also starts programs for the kernel (kernel/umh.c). And in a PID namespace
    made after that scan its number is somebody else's.
    """
    kthreadd = read(KTHREADD)
    if KTHREADD not in _kernel_threads or kthreadd is None or not kthreadd.kernel_thread:
        return frozenset()
    try:
        with open(f"/proc/{KTHREADD}/task/{KTHREADD}/children", "rb", buffering=0) as file:
            return _kernel_threads.intersection(map(int, file.read().split())) | {KTHREADD}
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return frozenset()


def read(pid: int) -> Process | None:
    """One process, or None if it is gone. One file is read; the functions below tell what else there is to know."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):  # it can end at any moment, this one too
        return None
    try:
        return parse(pid, os.read(fd, STAT_SIZE))
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)


def parse(pid: int, stat: bytes) -> Process | None:
    """A process from the beginning of its /proc/PID/stat (proc_pid_stat(5)); None for a zombie with no thread left."""
    # The name is in parentheses and may itself hold any character, ") R 1" for one.
    end = stat.rindex(b")")
    state, ppid, _, session, terminal, _, flags, *_, threads, _, start, _ = stat[end + 2 :].split(b" ", 20)
    if state in b"ZX" and int(threads) <= 1:
        return None
    return Process(
        pid,
        int(ppid),
        int(session),
        int(terminal),
        int(start),
        state.decode(),
        stat[stat.index(b"(") + 1 : end].decode(errors="surrogateescape"),
        int(threads),
        bool(int(flags) & PF_KTHREAD),
    )


def ancestors(pid: int) -> frozenset[int]:
    """`pid` and every process above it."""
    line = set()
    while pid > 0 and pid not in line and (process := read(pid)):
        line.add(pid)
        pid = process.ppid
    return frozenset(line)


def descendants(pid: int) -> frozenset[int]:
    """Every process below `pid`."""
    found: set[int] = set()
    above = [pid]
    while above:
        children = set(_children(above.pop())) - found
        found |= children
        above += children
    return frozenset(found)


def argv0(process: Process, most: int = 4096) -> str:
    """What a process was called by, `most` bytes of it; empty if it cannot be told.

    Reading it takes the process's mmap lock: of one in uninterruptible sleep that may never return.
    """
    if process.kernel_thread or process.state == "D":
        return ""
    try:
        return _slurp(f"/proc/{process.pid}/cmdline", most).partition("\0")[0]
    except OSError:
        return ""


def uid(pid: int) -> int | None:
    """Whose it is (effective), None if it is gone. Of the directory: the files in it may be root's all the same."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def cgroup(pid: int) -> str:
    """The most telling of the control groups that a process is in, as a path; empty if it is in none."""
    try:
        return telling_cgroup(_slurp(f"/proc/{pid}/cgroup"))
    except OSError:
        return ""


def telling_cgroup(text: str) -> str:
    """Of /proc/PID/cgroup (cgroups(7)): the unified hierarchy's, else an init's own, else any that is not the root.

    OpenRC names its groups /NAME in a hierarchy of its own, and /openrc.NAME in the unified one; here always so.
    """
    paths: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.rstrip("/"):
            paths["unified" if number == "0" else controllers] = path
    if "unified" in paths or "name=systemd" in paths:
        return paths.get("unified") or paths["name=systemd"]
    if "name=openrc" in paths:
        return f"/openrc.{paths['name=openrc'].lstrip('/')}"
    return next(iter(paths.values()), "")


def pid_namespace(pid: int | str) -> str:
    """What names the pid namespace of a process ("self": ours); empty if it cannot be told."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Status:
    """What /proc/PID/status has that stat does not (proc_pid_status(5)); sets of signals are masks, signal 1 first."""

    pids: tuple[int, ...]  # in each pid namespace that it is in, ours first
    blocked: int
    caught: int
    tracer: int  # the pid of who traces it, or 0

    def hears(self, number: int) -> bool:
        """Whether a signal does what the process wants it to, and not only what the kernel does by itself."""
        return bool((self.blocked | self.caught) >> (number - 1) & 1)


def status(pid: int) -> Status | None:
    """More about a process; dear, and None if it is gone."""
    try:
        lines = _slurp(f"/proc/{pid}/status").splitlines()
    except OSError:
        return None
    fields = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return Status(
        tuple(int(number) for number in fields.get("NSpid", str(pid)).split()),
        int(fields.get("SigBlk", "0"), 16),
        int(fields.get("SigCgt", "0"), 16),
        int(fields.get("TracerPid", "0")),
    )


def waits_on(pid: int, thread: int | None = None) -> str:
    """The kernel function in which a process (or a thread of it) sleeps; empty if it cannot be told."""
    directory = f"/proc/{pid}/task/{thread or pid}"
    with contextlib.suppress(OSError):
        if (wchan := _slurp(f"{directory}/wchan")) not in ("", "0"):
            return wchan
    with contextlib.suppress(OSError):  # "[<0>] rpc_wait_bit_killable+0x1f/0x90", the innermost first
        frame = _slurp(f"{directory}/stack").partition("\n")[0]
        return frame.rpartition("] ")[2].partition("+")[0]
    return ""


def sleeping_threads(pid: int) -> tuple[int, ...]:
    """The threads of a process that are in uninterruptible sleep."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return ()
    found = []
    for thread in threads:
        with contextlib.suppress(OSError):
            if _slurp(f"/proc/{pid}/task/{thread}/stat").rpartition(") ")[2].startswith("D"):
                found.append(int(thread))
    return tuple(found)


def open_files(pid: int) -> Iterator[tuple[int, str]]:
    """The file descriptors of a process that lead to a path, each with it: links are read and never followed."""
    directory = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):
                path = os.readlink(f"{directory}/{name}")
                if path.startswith("/"):
                    yield int(name), path


def is_writing(pid: int, fd: int) -> bool:
    """Whether a file descriptor of a process was opened for writing (proc_pid_fdinfo(5))."""
    with contextlib.suppress(OSError, IndexError):
        flags = int(_slurp(f"/proc/{pid}/fdinfo/{fd}").partition("flags:")[2].split()[0], 8)
        return flags & os.O_ACCMODE != os.O_RDONLY
    return False


def count_threads() -> int:
    """How many there are on the whole machine, from "0.20 0.18 0.12 1/80 11206" (proc_loadavg(5))."""
    return int(_slurp("/proc/loadavg").split()[3].partition("/")[2])


def _slurp(path: str, most: int = 1 << 16) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, most).decode(errors="surrogateescape")
    finally:
        os.close(fd)


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return [int(child) for thread in threads for child in _slurp(f"/proc/{pid}/task/{thread}/children").split()]
    except OSError:  # gone, or a kernel without CONFIG_PROC_CHILDREN
        return [process.pid for process in scan() if process.ppid == pid]
