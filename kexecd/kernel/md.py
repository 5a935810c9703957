# SPDX-License-Identifier: MIT
"""md arrays: stopping one that carries nothing, and waiting until one that stays is marked clean on its disks.

Documentation/admin-guide/md.rst (array_state, safe_mode_delay), include/uapi/linux/raid/md_u.h. An array that is not
marked clean is resynchronised after the restart, for hours on large disks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time

from kexecd.kernel.guard import forbid_in_tests

STOP_ARRAY = 0x0932  # _IO(MD_MAJOR, 0x32)

SETTLED = frozenset(("clear", "inactive", "readonly", "read-auto", "clean"))
"""States of an array with nothing to be marked on its disks."""

SOON = "0.005"
"""Seconds without a write after which the kernel marks an array clean; its own default is 0.2."""


def stop(device: str) -> None:
    """Stop an array. One that is gone is no error; raises OSError, EBUSY while anybody has it open."""
    forbid_in_tests(f"stop {device}")
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            return
        raise
    try:
        os.fsync(fd)  # its own pages, which no filesystem knows of
        fcntl.ioctl(fd, STOP_ARRAY)
    finally:
        os.close(fd)


def wait_clean(name: str, seconds: str = "2.0", top: str = "/sys/block") -> None:
    """Until md127 is marked clean on its disks; raises OSError, ETIME when it is not within `seconds`.

    For an array that carries a mounted filesystem: it cannot be made read-only while anybody has it open.
    """
    forbid_in_tests(f"settle {name}")
    end = time.monotonic() + float(seconds)
    _hurry(f"{top}/{name}/md/safe_mode_delay")
    fd = os.open(f"{top}/{name}/md/array_state", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI | select.POLLERR)  # what sysfs_notify() wakes
        while os.pread(fd, 64, 0).strip().decode() not in SETTLED:
            left = end - time.monotonic()
            if left <= 0:
                raise OSError(errno.ETIME, os.strerror(errno.ETIME), name)
            poll.poll(left * 1000)
    finally:
        os.close(fd)


def _hurry(path: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # RAID0 and linear have no such state
        return
    try:
        os.write(fd, SOON.encode())
    finally:
        os.close(fd)
