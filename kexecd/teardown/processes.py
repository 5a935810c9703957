# SPDX-License-Identifier: MIT
"""Quit what runs: TERM, a grace, KILL, each by pidfd; waiting is "a pidfd is readable", never a sleep.

In rounds, because a process may fork while it is being asked: each looks again and treats newcomers as the others.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kexecd.kernel import proc
from kexecd.model import Context, Process, Running, Wait

KILL_RESERVE = 0.5
"""Seconds kept back from every grace, so that KILL and its effect fit inside the deadline too."""

Scan = Callable[[], Iterable[Process]]


@dataclass(frozen=True, slots=True)
class Spare:
    """Who is left alone: what the machine needs until the jump, and ourselves.

    Kernel threads; PID 1; this process with its ancestors and children; and storage daemons, which say by an argv[0]
    that starts with "@" that the root filesystem needs them (https://systemd.io/ROOT_STORAGE_DAEMONS).
    """

    pids: frozenset[int]

    @classmethod
    def ours(cls) -> Spare:
        return cls(proc.ancestors(os.getpid()) | {1})

    def __call__(self, process: Process) -> bool:
        return (
            process.kernel_thread
            or process.pid in self.pids
            or process.ppid == os.getpid()
            or (process.argv0.startswith("@") and process.uid == 0)
        )


class Watched:
    """Processes held by pidfd, until they have ended."""

    def __init__(self) -> None:
        self._held: dict[int, Process] = {}
        self._seen: set[tuple[int, int]] = set()

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def fds(self) -> frozenset[int]:
        return frozenset(self._held)

    @property
    def processes(self) -> tuple[Process, ...]:
        return tuple(self._held.values())

    def take(self, processes: Iterable[Process]) -> list[tuple[int, Process]]:
        """Hold those that are new; returns them with their pidfds."""
        fresh = []
        for process in processes:
            key = (process.pid, process.start)
            if key not in self._seen and (fd := proc.open_pidfd(process)) is not None:
                self._seen.add(key)
                self._held[fd] = process
                fresh.append((fd, process))
        return fresh

    def drop(self, readable: Iterable[int]) -> None:
        for fd in readable:
            if fd in self._held:
                del self._held[fd]
                os.close(fd)

    def close(self) -> None:
        self.drop(tuple(self._held))


@dataclass(frozen=True)
class QuitProcesses:
    """TERM to whoever has not been asked yet, KILL to whoever is still there after the grace."""

    grace: float  # seconds
    preview: tuple[Process, ...] = ()  # who it would be now, for describe()
    scan: Scan = field(default=proc.scan, repr=False)
    name: str = "processes"

    def describe(self) -> str:
        return f"ask every other process to quit, kill what is left after {self.grace:g} s ({_names(self.preview)})"

    def run(self, context: Context) -> Running:
        spare, watched = Spare.ours(), Watched()
        end = max(context.now(), context.deadline - KILL_RESERVE)
        until = min(context.now() + self.grace, end)
        try:
            while True:
                for fd, process in watched.take(p for p in self.scan() if not spare(p)):
                    if _remember(context, process):
                        _ask(fd)
                    else:  # asked before by PID 1, and its grace is used up
                        _kill(fd)
                if not watched or context.now() >= until:
                    break
                watched.drop((yield Wait(watched.fds, until)))
            if watched:
                context.tell(f"killing {_names(watched.processes)}: still running {self.grace:g} s after TERM")
            while watched and context.now() < context.deadline:
                for fd in watched.fds:
                    _kill(fd)
                watched.drop((yield Wait(watched.fds, context.deadline)))
                watched.take(p for p in self.scan() if not spare(p))
            for process in watched.processes:
                context.tell(f"left behind: {_who(process)} cannot be killed{_reason(process)}")
        finally:
            watched.close()

    def undo(self) -> None:
        """Nothing: a TERM cannot be unsent, which is why it only runs after the commit point."""


def _remember(context: Context, process: Process) -> bool:
    key = (process.pid, process.start)
    if key in context.asked:
        return False
    context.asked.add(key)
    return True


def _ask(fd: int) -> None:
    # A stopped process acts on TERM only once it goes on.
    if proc.send(fd, signal.SIGTERM):
        proc.send(fd, signal.SIGCONT)


def _kill(fd: int) -> None:
    with contextlib.suppress(PermissionError):
        proc.send(fd, signal.SIGKILL)


def _reason(process: Process) -> str:
    where = proc.waits_on(process.pid)
    return f", it sleeps in the kernel in {where}" if where else ""


def _who(process: Process) -> str:
    return f"{process.name} ({process.pid})"


def _names(processes: Iterable[Process], most: int = 6) -> str:
    everyone = [_who(process) for process in processes]
    more = f" and {len(everyone) - most} more" if len(everyone) > most else ""
    return ", ".join(everyone[:most]) + more if everyone else "nobody"
