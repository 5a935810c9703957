# SPDX-License-Identifier: MIT
"""Room for file descriptors: a pidfd for each of thousands of processes is more than a process may open by default."""

from __future__ import annotations

import contextlib
import os
import select

RESERVE = 64
"""What is kept for everybody else: channels of workers, the output of programs, files that are read meanwhile."""


def room_for(count: int) -> int:
    """How many more may be opened, up to `count`; raises the limit only as far as that takes.

    Programs that we start inherit the limit, and some close every number below theirs: so not as high as it could be.
    """
    import resource  # late: only who quits processes needs it

    used = len(os.listdir("/proc/self/fd")) + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (min(used + count, _most()), min(used + count, hard)):  # the hard limit is raised by CAP_SYS_RESOURCE
        if wanted > soft:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
                soft = wanted
    return max(1, min(count, soft - used))


def readable(fd: int, seconds: float) -> bool:
    """Whether it can be read, or has been hung up, within so many seconds; select(2) takes no descriptor above 1023."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _most() -> int:
    with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
        return int(file.read())
