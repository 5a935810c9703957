# SPDX-License-Identifier: MIT
"""Locks by flock(2), waited for up to a deadline: one whose holder is stopped, or hangs in a driver, is held for good.

No poll(2) tells when one is free, and a signal would be the whole process's. So a child waits in the kernel, and its
end is what is waited for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import time

from kexecd.kernel.descriptors import readable
from kexecd.kernel.files import read_text

LOCKS = "/proc/locks"

ENDING = 0.5
"""Seconds for a child to end after KILL; one that does not is left behind."""


class StillHeld(TimeoutError):
    """Somebody else has it for longer than it is waited for; the text says who, where that can be told."""

    def __str__(self) -> str:
        return self.strerror or ""


def take(fd: int, path: str, *, seconds: float) -> None:
    """Lock what is open as `fd`, which is at `path`. Raises StillHeld and OSError."""
    end = time.monotonic() + seconds
    while not _taken(fd):
        left = end - time.monotonic()
        if left <= 0:
            why = f"{_holder(fd)} has {path} locked, and did not let go of it within {seconds:g} s"
            raise StillHeld(errno.ETIMEDOUT, why)
        _wait(path, left)


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(path: str, seconds: float) -> None:
    """Until it was free for a moment, or that time is over. Raises OSError where nobody can wait for it."""
    child = os.fork()
    if child == 0:
        try:
            # Whoever waits for us may be killed: then we end by ourselves, and hold no filesystem open.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
            signal.setitimer(signal.ITIMER_REAL, seconds + ENDING)
            fcntl.flock(os.open(path, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_EX)
            os._exit(0)
        finally:
            os._exit(1)
    ended = os.pidfd_open(child)
    try:
        if not readable(ended, seconds):
            os.kill(child, signal.SIGKILL)  # our own child, not yet waited for: the number is still its own
            if readable(ended, ENDING):
                os.waitpid(child, 0)
        elif os.waitpid(child, 0)[1]:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), path)
    finally:
        os.close(ended)


def _holder(fd: int) -> str:
    """As proc_locks(5) tells, which is by device and inode; some filesystems call their device otherwise there."""
    status = os.fstat(fd)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError):
        for line in (read_text(LOCKS) or "").splitlines():
            match line.split():
                case [_, "FLOCK", _, _, pid, there, *_] if there == place and (name := read_text(f"/proc/{pid}/comm")):
                    return f"process {pid} ({name.strip()})"
    return "another process"
