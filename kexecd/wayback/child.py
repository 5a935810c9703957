# SPDX-License-Identifier: MIT
"""A call that may never return, in a child of its own: it is waited for as long as it is worth, and left behind.

A write to a disk that is gone, a name server that does not answer, a PID 1 that hangs: whoever watches over a new boot
must not hang with them. The answer is a sentence about what is wrong, and empty if nothing is.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable

from kexecd.kernel.descriptors import readable

ENDING = 0.5
"""Seconds for what was killed to be gone; then it is left behind."""

MESSAGE = 1 << 12  # bytes of an answer


class Child:
    """`work` at work. seconds: what it is worth; whoever waits for it looks at that."""

    def __init__(self, named: str, seconds: float, work: Callable[[], str]) -> None:
        """named: what it is called where it does not answer."""
        self._named, self.seconds = named, seconds
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._pid = os.fork()
        if self._pid == 0:
            _work(work, writer)
        os.close(writer)
        self._heard = b""

    @property
    def fds(self) -> frozenset[int]:
        """What is readable when there may be an answer."""
        return frozenset((self._reader,)) if self._pid else frozenset()

    def answer(self, *, late: bool) -> str | None:
        """None as long as there is none. late: it has taken too long, and that is the answer."""
        if late:
            return f"{self._named}: no answer in time"
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._reader, MESSAGE):
                self._heard += part
            self.end()
            if not self._heard:
                return f"{self._named}: whoever did it has died"
            return self._heard[1:].decode(errors="replace")
        return None

    def end(self) -> None:
        """Be done with it; twice does no harm."""
        if not self._pid:
            return
        pidfd = os.pidfd_open(self._pid)
        os.kill(self._pid, signal.SIGKILL)  # our own child, not yet waited for: the number is still its own
        if readable(pidfd, ENDING):
            os.waitpid(self._pid, 0)  # otherwise it sleeps in the kernel, and is left behind
        os.close(pidfd)
        os.close(self._reader)
        self._pid = 0


def within(named: str, seconds: float, work: Callable[[], str]) -> str:
    """Wait for `work` so long at most; what is wrong, also if it was left behind. Raises nothing."""
    try:
        child = Child(named, seconds, work)
    except OSError as error:  # no process to be had
        return f"{named}: {error.strerror or error}"
    end = time.monotonic() + seconds
    try:
        while True:
            left = end - time.monotonic()
            poll = select.poll()
            for fd in child.fds:
                poll.register(fd, select.POLLIN)
            poll.poll(max(0, int(left * 1000) + 1))
            answer = child.answer(late=False)
            if answer is None and left <= 0:
                answer = child.answer(late=True)
            if answer is not None:
                return answer
    finally:
        child.end()


def _work(work: Callable[[], str], writer: int) -> None:
    """In the child. Nothing of ours stays open, and a signal to us is not one to it."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.closerange(3, writer)
        os.closerange(writer + 1, 1 << 20)
        try:
            said = work()
        except Exception as error:  # whatever it is, it is not good
            said = f"{error}" or repr(error)
        os.write(writer, b"." + said.encode(errors="replace")[: MESSAGE - 1])
    finally:
        os._exit(0)
