# SPDX-License-Identifier: MIT
"""Hearing that the files of a directory have changed (inotify(7))."""

from __future__ import annotations

import ctypes
import os
import struct

# include/uapi/linux/inotify.h
IN_MODIFY, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_DELETE = 0x002, 0x008, 0x040, 0x080, 0x200
IN_NONBLOCK, IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
HEADER = struct.Struct("iIII")
ROOM = 1 << 16  # bytes

LOST = ""
"""In place of a name: there were more changes than the kernel keeps."""

_libc = ctypes.CDLL(None, use_errno=True)


def watch(directory: str) -> int:
    """A descriptor that is readable when a file in `directory` was written, moved there or removed. Raises OSError."""
    fd: int = _libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
    mask = IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE
    if fd < 0 or _libc.inotify_add_watch(fd, os.fsencode(directory), mask) < 0:
        number = ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
        raise OSError(number, os.strerror(number), directory)
    return fd


def names(fd: int) -> set[str]:
    """The names of the files that have changed since the last call."""
    found: set[str] = set()
    try:
        data = os.read(fd, ROOM)
    except BlockingIOError:
        return found
    while data:
        *_, length = HEADER.unpack_from(data)
        end = HEADER.size + length
        found.add(os.fsdecode(data[HEADER.size : end].rstrip(b"\0")))
        data = data[end:]
    return found
