# SPDX-License-Identifier: MIT
"""Reaching exactly one process, by its pidfd (pidfd_open(2)): a signal never goes to one that took the number over."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

from kexecd.kernel.guard import forbid_in_tests


def open(pid: int) -> int | None:
    """A pidfd, readable when the process has ended; None if there is none of this number.

    Opened before anything is read about the process: whatever is read is then about the one behind the pidfd, or that
    one has ended in between and a signal reaches nobody. The other way round a signal could reach a stranger.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        # The last two: the number of a thread, which older and newer kernels refuse differently.
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            return None
        raise


def sender(number: int) -> Callable[[int], bool]:
    """What sends this signal to the process behind a pidfd; False if that has ended.

    A function for many, because asking the guard costs more than the signal.
    """
    forbid_in_tests("send a signal")
    send_to = signal.pidfd_send_signal

    def send(fd: int) -> bool:
        try:
            send_to(fd, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # not root, or a security module says no: it is named if it is still there at the end
            return True
        return True

    return send


def stop_everyone() -> None:
    """SIGSTOP to every process of this pid namespace but its PID 1 and ourselves, as one act.

    Nobody escapes it by forking: the kernel hands a signal for many also to a child that is being made meanwhile
    (kernel/fork.c and kernel/signal.c, `multiprocess`). One after the other, somebody who forks and exits without end
    is never there any more when its turn comes.
    """
    forbid_in_tests("stop every process")
    try:
        os.kill(-1, signal.SIGSTOP)
    except ProcessLookupError:  # there is nobody else
        return
