# SPDX-License-Identifier: MIT
"""Block devices that stand on files or on other devices, and swap: what /sys/block and /proc/swaps tell of them."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass

from kexecd.kernel.files import join_root, read_text
from kexecd.kernel.guard import forbid_in_tests

LOOP_CLR_FD = 0x4C01  # include/uapi/linux/loop.h


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop device that is in use."""

    name: str  # loop0
    backing: str  # the file that it stands on; as the kernel names it, " (deleted)" included
    autoclear: bool  # it goes by itself when nobody uses it any more

    @property
    def device(self) -> str:
        return f"/dev/{self.name}"


@dataclass(frozen=True, slots=True)
class Swap:
    path: str
    is_file: bool  # a file holds its filesystem; a partition holds nothing


def loops(root: str = "/") -> tuple[Loop, ...]:
    """Every loop device with something behind it."""
    found = []
    for name in _names(root):
        if name.startswith("loop") and (backing := _read(root, f"/sys/block/{name}/loop/backing_file")):
            found.append(Loop(name, backing, _read(root, f"/sys/block/{name}/loop/autoclear") == "1"))
    return tuple(found)


def swaps(root: str = "/") -> tuple[Swap, ...]:
    """What the machine swaps to (proc(5), /proc/swaps: path, type, sizes, priority; blanks in octal)."""
    rows = [line.split() for line in _read(root, "/proc/swaps").splitlines()[1:]]
    return tuple(Swap(row[0].replace("\\040", " "), row[1] == "file") for row in rows if len(row) >= 2)


def detach(device: str) -> None:
    """Take a loop device off its file. One that went by itself meanwhile is no error; raises OSError for the others."""
    forbid_in_tests(f"detach {device}")
    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)


def _names(root: str) -> list[str]:
    try:
        return sorted(os.listdir(join_root(root, "/sys/block")))
    except OSError:
        return []


def _read(root: str, path: str) -> str:
    try:
        return (read_text(path, root=root) or "").strip()
    except OSError:
        return ""
