# SPDX-License-Identifier: MIT
"""Leaving one's control group, which an init ends as a whole when it stops the session or the service in it."""

from __future__ import annotations

import contextlib
import os

# cgroups(7): the unified hierarchy; beside the older ones (hybrid); systemd's own among the older ones.
ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")


def leave() -> None:
    """Move this process to the root group of every hierarchy by which an init tracks processes, where there is one."""
    for root in ROOTS:
        with contextlib.suppress(OSError):
            fd = os.open(f"{root}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
