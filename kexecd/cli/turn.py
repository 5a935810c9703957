# SPDX-License-Identifier: MIT
"""Waiting for the lock, where being second is no reason to give up: PID 1 stops a service while we hand over to it."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from kexecd.kernel.descriptors import readable
from kexecd.lock import LOCK_FILE, hold


@contextmanager
def wait_for(run_dir: str, deed: str, *, seconds: float) -> Iterator[None]:
    """kexecd.lock.hold, after waiting at most so long for whoever holds it now. Raises Busy, as that does."""
    _wait(os.path.join(run_dir, LOCK_FILE), seconds)
    with hold(run_dir, deed):
        yield


def _wait(path: str, seconds: float) -> None:
    """Until the lock is free, or that time is over. By a child that waits in the kernel, since no poll(2) tells it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass
    finally:
        os.close(fd)
    child = os.fork()
    if child == 0:
        try:
            fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX)
        finally:
            os._exit(0)
    ended = os.pidfd_open(child)
    try:
        readable(ended, seconds)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ended)
