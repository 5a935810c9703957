# SPDX-License-Identifier: MIT
"""The processor's time counter, which a kexec does not set back: the one clock that both kernels read, to the last
microsecond.

No instruction is needed for it: a kernel whose own clock is made of the counter says how in the first page of a perf
event (struct perf_event_mmap_page in include/uapi/linux/perf_event.h; perf_event_open(2)). There are the offset of that
clock to the counter and the moment of the look itself, so one page is one look. A kernel with another clock, a guest
with one of its hypervisor's for one, leaves these fields empty.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import time
from dataclasses import dataclass

NUMBERS = {"x86_64": 298, "aarch64": 241, "riscv64": 241}
"""perf_event_open, by architecture, of those whose counter goes on through a kexec."""

PERF_TYPE_SOFTWARE = 1
PERF_COUNT_SW_DUMMY = 9  # counts nothing
DISABLED, EXCLUDE_KERNEL, EXCLUDE_HV = 1 << 0, 1 << 5, 1 << 6  # bits of struct perf_event_attr
PERF_FLAG_FD_CLOEXEC = 8
SIZE = 112  # PERF_ATTR_SIZE_VER5, Linux 4.1: what comes later is not used
FLAGS = 40  # where the bits are in it

CAPABILITIES = 40  # of struct perf_event_mmap_page, as the next: where a field is
SHIFT = 50  # time_shift, time_mult, time_offset, time_zero
HAS_TIME_ZERO = 1 << 4

LOOKS = 5
"""Looks at most, of which the shortest counts."""

ENOUGH = 0.001
"""Seconds of error with which nobody looks again: a look takes a slow machine ten times that, on the way down."""


@dataclass(frozen=True, slots=True)
class Count:
    """The counter's reading when the boot was `boottime` seconds old (CLOCK_BOOTTIME), to `error` seconds."""

    cycles: int
    hertz: float
    boottime: float
    error: float


def read() -> Count | None:
    """None where this kernel does not tell, or does not let us look."""
    best: Count | None = None
    for _ in range(LOOKS):
        count = _look()
        if count is None:
            break
        best = min(best or count, count, key=lambda count: count.error)
        if best.error <= ENOUGH:
            break
    return best


def parse(page: bytes) -> tuple[int, float] | None:
    """(cycles, per second) out of the page's first 80 bytes."""
    capabilities: int = struct.unpack_from("=Q", page, CAPABILITIES)[0]
    shift, mult, offset, _ = struct.unpack_from("=HIQQ", page, SHIFT)
    if not capabilities & HAS_TIME_ZERO or not mult:
        return None
    # The kernel's clock at the look is time_zero + (cycles * mult >> shift), and time_offset is time_zero minus it.
    return (-offset % (1 << 64) << shift) // mult, 1e9 * (1 << shift) / mult


def _look() -> Count | None:
    number = NUMBERS.get(os.uname().machine)
    if number is None or sys.maxsize <= 1 << 32:  # a 32-bit program calls by another table
        return None
    attributes = ctypes.create_string_buffer(SIZE)
    struct.pack_into("=IIQ", attributes, 0, PERF_TYPE_SOFTWARE, SIZE, PERF_COUNT_SW_DUMMY)
    struct.pack_into("=Q", attributes, FLAGS, DISABLED | EXCLUDE_KERNEL | EXCLUDE_HV)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    # Of this process, on whichever CPU, in no group.
    where = [ctypes.c_long(word) for word in (0, -1, -1, PERF_FLAG_FD_CLOEXEC)]
    fd = libc.syscall(ctypes.c_long(number), attributes, *where)
    if fd < 0:
        return None
    try:
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        with mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ) as page:
            after = time.clock_gettime(time.CLOCK_BOOTTIME)
            found = parse(page[:80])
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
    return Count(*found, boottime=(before + after) / 2, error=(after - before) / 2) if found else None
