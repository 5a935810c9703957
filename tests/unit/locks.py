# SPDX-License-Identifier: MIT
"""Somebody who has the lock of the records and is stopped: what is held so is held for good."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def locked_by_a_stopped_process(directory: str) -> Iterator[int]:
    """Yields its process id."""
    child = os.fork()
    if child == 0:
        fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_EX)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        _, status = os.waitpid(child, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
