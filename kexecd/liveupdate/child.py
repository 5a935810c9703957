# SPDX-License-Identifier: MIT
"""A child of the holder, held by a pidfd: to end it, and to know that it has ended.

Not by its number: that is another process's once ours was waited for, and 0 is our own process group (kill(2)). A child
of the holder's may look as well, and wait: pidfds come along (pidfd_open(2)).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import weakref


class Child:
    """Held until nobody has this object any more."""

    def __init__(self, pid: int) -> None:
        """pid: of a child that nobody has waited for; no positive one where the work was done without a child."""
        self._pidfd = -1
        if pid <= 0:
            return
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:  # nobody could end it later on; that it was killed is reported as ever
            os.kill(pid, signal.SIGKILL)
        else:
            weakref.finalize(self, os.close, self._pidfd).atexit = False

    def end(self) -> None:
        """Kill it, if it has not ended. One that sleeps in the kernel ends when it wakes."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Whether it does within so many seconds; from then on it changes nothing any more."""
        if self._pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
