# SPDX-License-Identifier: MIT
"""What the kernel does when nobody else can (Documentation/admin-guide/sysrq.rst)."""

from __future__ import annotations

import os

from kexecd.kernel.guard import forbid_in_tests

TRIGGER = "/proc/sysrq-trigger"


def remount_read_only() -> None:
    """Begin to make every block device's filesystem read-only, writers or not; a kernel thread does it meanwhile."""
    _trigger("u", "remount everything read-only")


def reset() -> None:
    """Restart through the firmware at once: no sync, no driver is told. It does not even need reboot(2)'s lock."""
    _trigger("b", "reset the machine")


def _trigger(letter: str, deed: str) -> None:
    forbid_in_tests(deed)
    fd = os.open(TRIGGER, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, letter.encode())
    finally:
        os.close(fd)
