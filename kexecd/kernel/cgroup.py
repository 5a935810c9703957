# SPDX-License-Identifier: MIT
"""Leaving one's control group, which an init ends as a whole when it stops the session or the service in it."""

from __future__ import annotations

import contextlib
import os

# cgroups(7): the unified hierarchy; beside the older ones (hybrid); systemd's own among the older ones.
ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")


def leave() -> None:
    """Move this process to the root group of every hierarchy by which an init tracks processes, where there is one.

    The kernel first waits until nobody is just forking (an RCU grace period), which takes it some 20 ms.
    """
    if _has_left():
        return
    for root in ROOTS:
        with contextlib.suppress(OSError):
            fd = os.open(f"{root}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)


def _has_left() -> bool:
    """Whether it is in no other group of any hierarchy."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return all(line.rstrip("\n").endswith(":/") for line in file)
    except OSError:
        return False
