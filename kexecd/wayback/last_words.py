# SPDX-License-Identifier: MIT
"""What a kernel that went down left behind: its panic in the platform's store, and whether a watchdog reset it.

pstore keeps the end of the kernel's log over a reset where a machine has something to keep it in; systemd-pstore moves
it into a directory of its own (Documentation/ABI/testing/pstore, systemd-pstore.service(8)). A watchdog's driver tells
what the last reset came from (Documentation/watchdog/watchdog-api.rst, WDIOF_CARDRESET).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from kexecd.kernel.files import join_root, read_text

PLACES = ("/sys/fs/pstore", "/var/lib/systemd/pstore")
DEPTH = 3  # systemd-pstore: TIME/PART/dmesg.txt

LARGEST = 4 << 20  # bytes of one record; a kernel keeps a few pages of its log
MOST_FILES = 200

CLOCKS_DIFFER = 120.0
"""Seconds that the clock of a kernel which has just started may be behind; it begins with the hardware's."""

PANIC = re.compile(r"Kernel panic - not syncing.*")

WATCHDOGS = "/sys/class/watchdog"
CARD_RESET = 0x20  # WDIOF_CARDRESET in include/uapi/linux/watchdog.h


def panic(since: float, root: str = "/") -> str:
    """The line of a panic of a kernel after `since`, in seconds since the epoch; empty where there is none.

    The newest record counts: what else is there is of earlier failures that somebody keeps.
    """
    for path in sorted(_records(since - CLOCKS_DIFFER, root), key=_written, reverse=True):
        with contextlib.suppress(OSError):
            if found := PANIC.search(read_text(path, limit=LARGEST) or ""):
                return found[0].strip()
    return ""


def reset(root: str = "/") -> str:
    """Which watchdog has reset this machine, as a sentence; empty where none says so."""
    top = join_root(root, WATCHDOGS)
    for name in _names(top):
        status = _line(f"{top}/{name}/bootstatus")
        with contextlib.suppress(ValueError):
            if int(status, 0) & CARD_RESET:
                return f"it hung, and the watchdog {_line(f'{top}/{name}/identity') or name} reset the machine"
    return ""


def _records(since: float, root: str) -> Iterator[str]:
    """Files that hold the end of a log, and are not older. A record is dated by the machine's clock when it failed."""
    left = MOST_FILES
    for place in PLACES:
        for directory, below, names in os.walk(top := join_root(root, place)):
            if directory.removeprefix(top).count("/") >= DEPTH:
                below.clear()
            for name in names:
                path = os.path.join(directory, name)
                if name.startswith("dmesg") and not name.endswith(".z") and left and _written(path) >= since:
                    left -= 1
                    yield path


def _written(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _line(path: str) -> str:
    try:
        return (read_text(path) or "").strip()
    except OSError:
        return ""
