# SPDX-License-Identifier: MIT
"""One thread that waits for many things: what a long-lived process is made of (kexecd.daemon).

Nothing that is called from here may wait. What takes time is done in a child of its own, whose answer comes by a pipe
and which is killed when it takes too long; so one deed delays no other.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from kexecd.kernel import inotify

PART = 1 << 16  # bytes of one read
BURYING = 1.0  # seconds between two looks at a child that was killed and has not ended
FEW = 64  # timers, of which nobody minds that some are cancelled


@dataclass(slots=True)
class Timer:
    """Something to be called at `at` seconds of CLOCK_MONOTONIC, unless it is cancelled before."""

    at: float
    call: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass(frozen=True, slots=True)
class Ended:
    """A child's end. code: its exit status, 128 + n for signal n; late: it was killed, since it took too long."""

    code: int
    output: bytes
    late: bool = False


@dataclass(slots=True)
class _Child:
    pid: int
    reader: int
    done: Callable[[Ended], None]
    limit: int
    timer: Timer
    output: bytearray = field(default_factory=bytearray)
    late: bool = False


class Loop:
    def __init__(self) -> None:
        self._poll = select.poll()
        self._ready: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._most = FEW
        self._number = count()
        self._children = 0
        self._stopped = False

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready` each time that `fd` can be read, or has been hung up."""
        self._ready[fd] = ready
        self._poll.register(fd, select.POLLIN)

    def forget(self, fd: int) -> None:
        if self._ready.pop(fd, None):
            self._poll.unregister(fd)

    def after(self, seconds: float, call: Callable[[], object]) -> Timer:
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, (timer.at, next(self._number), timer))
        if len(self._timers) > self._most:  # whoever can set and cancel one again and again must not fill our memory
            self._timers = [one for one in self._timers if not one[2].cancelled]
            heapq.heapify(self._timers)
            self._most = max(FEW, 2 * len(self._timers))
        return timer

    def child(
        self,
        work: Callable[[int], int],
        done: Callable[[Ended], None],
        *,
        seconds: float,
        limit: int = 16 << 20,
    ) -> int:
        """Call work(writer) in a child, which exits with what it returns; returns the child's pid.

        What it writes to the descriptor `writer` is Ended.output, of at most `limit` bytes. It is killed after
        `seconds`. Raises OSError where there is no process to be had.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        if pid == 0:
            code = 1
            try:
                os.close(reader)
                code = work(writer)
            finally:
                os._exit(code)
        os.close(writer)
        os.set_blocking(reader, False)
        child = _Child(pid, reader, done, limit, self.after(seconds, lambda: self._kill(child)))
        self._children += 1
        self.watch(reader, lambda: self._read(child))
        return pid

    @property
    def children(self) -> int:
        """How many have not ended."""
        return self._children

    def stop(self) -> None:
        """run() returns when what is being called has returned."""
        self._stopped = True

    def run(self) -> None:
        while not self._stopped:
            for fd, _ in self._poll.poll(self._patience()):
                if ready := self._ready.get(fd):  # an earlier one of this round may have forgotten it
                    ready()
            while self._timers and (self._timers[0][2].cancelled or self._timers[0][0] <= time.monotonic()):
                _, _, timer = heapq.heappop(self._timers)
                if not timer.cancelled:
                    timer.call()

    def _patience(self) -> float | None:
        """Milliseconds until the first timer; None without one."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return max(0.0, (self._timers[0][0] - time.monotonic()) * 1000 + 1) if self._timers else None

    def _read(self, child: _Child) -> None:
        with contextlib.suppress(BlockingIOError):
            if part := os.read(child.reader, PART):
                child.output += part[: max(0, child.limit - len(child.output))]
                return
            self._reap(child)

    def _kill(self, child: _Child) -> None:
        child.late = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)  # our own child, not yet waited for: the number is still its own
        # Whoever it has started may hold the pipe open, and it may itself be stuck in the kernel.
        self._reap(child)

    def _reap(self, child: _Child) -> None:
        child.timer.cancel()
        self.forget(child.reader)
        os.close(child.reader)
        self._children -= 1
        # The end of its output is the end of it, but for the instant until the kernel has it as a zombie.
        code = self._bury(child.pid) if child.late else os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        child.done(Ended(code if code >= 0 else 128 - code, bytes(child.output), child.late))

    def _bury(self, pid: int) -> int:
        """Wait for one that was killed without waiting: it may be stuck in the kernel."""
        if not os.waitpid(pid, os.WNOHANG)[0]:
            self.after(BURYING, lambda: self._bury(pid))
        return -signal.SIGKILL


class Changes:
    """Calls `call` when files with these names in a directory have changed, `pause` seconds after the first of them.

    A file that is written to line by line wakes nobody more often than that: on a way down others need the processor.
    """

    def __init__(
        self, loop: Loop, directory: str, names: frozenset[str], call: Callable[[], object], *, pause: float
    ) -> None:
        """Raises OSError if the directory cannot be watched."""
        self._loop, self._names, self._call, self._pause = loop, names | {inotify.LOST}, call, pause
        self._look: Timer | None = None
        self._fd = inotify.watch(directory)
        loop.watch(self._fd, self._hear)

    def close(self) -> None:
        """Hear nothing more; also from within `call`."""
        if self._fd < 0:
            return
        self._loop.forget(self._fd)
        os.close(self._fd)
        self._fd = -1
        if self._look:
            self._look.cancel()

    def _hear(self) -> None:
        self._loop.forget(self._fd)
        self._look = self._loop.after(self._pause, self._tell)

    def _tell(self) -> None:
        self._look = None
        if inotify.names(self._fd) & self._names:
            self._call()
        if self._fd >= 0:
            self._loop.watch(self._fd, self._hear)
