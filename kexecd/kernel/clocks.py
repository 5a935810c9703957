# SPDX-License-Identifier: MIT
"""How right the wall clock is, and the hardware clock beside it, which goes on through a kexec and through a reset.

Sources: adjtimex(2); Documentation/ABI/testing/sysfs-class-rtc; rtc(4).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import time

from kexecd.kernel.files import read_text

RTC = "/sys/class/rtc/rtc0/since_epoch"
DEVICE = "/dev/rtc0"
RTC_UIE_ON, RTC_UIE_OFF = 0x7003, 0x7004  # include/uapi/linux/rtc.h: an interrupt when its second begins, and no more
EDGE = 1.5
"""Seconds to wait for its next second."""

STA_UNSYNC = 0x40  # include/uapi/linux/timex.h
_TIMEX = 512  # bytes, more than struct timex has


class _Timex(ctypes.Structure):
    """The beginning of struct timex."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * _TIMEX),
    )


def wall_error() -> float | None:
    """Seconds by which the wall clock is wrong at most, as who keeps it right says; None: nobody does."""
    timex = _Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0 or timex.status & STA_UNSYNC:
        return None
    return float(timex.maxerror) / 1e6


def hardware() -> int | None:
    """The hardware clock, in whole seconds since the epoch as it counts them; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        return int(read_text(RTC) or "")
    return None


def hardware_edge(seconds: float = EDGE) -> tuple[float, int] | None:
    """Wait for the hardware clock's next second: (CLOCK_BOOTTIME when it began, which one); None if it does not say."""
    import fcntl  # late: only of a boot that is over

    with contextlib.suppress(OSError):
        fd = os.open(DEVICE, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, RTC_UIE_ON, 0)
            try:
                ready, _, _ = select.select([fd], [], [], seconds)
                at = time.clock_gettime(time.CLOCK_BOOTTIME)
                second = hardware() if ready else None
            finally:
                fcntl.ioctl(fd, RTC_UIE_OFF, 0)
        finally:
            os.close(fd)
        return None if second is None else (at, second)
    return None
