# SPDX-License-Identifier: MIT
"""Late code: telling the next boot why a way down that was to end in a jump ends in the firmware.

Everything is closed by then, and nobody else can tell: without this the next boot would take the kernel for one that
has failed. The filesystem of the record may be read-only already; then it is opened for this one write, and closed
again, which a restart through the firmware has the time for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

from kexecd import handoff
from kexecd.cli.steps import bounded
from kexecd.errors import Refusal
from kexecd.handoff import STATE_DIR
from kexecd.kernel import mountinfo, syscalls, sysfs

PATIENCE = 5.0
"""Seconds for all of it; a disk that takes longer is why the machine is not clean."""


def write(why: str, tell: Callable[[str], None]) -> None:
    """What goes wrong with it is told, and nothing more."""
    try:
        bounded(lambda: _write(why), PATIENCE)
    except (OSError, Refusal) as error:
        tell(f"the next boot will not be told why there was no jump: {error}, ignoring")


def _write(why: str, state_dir: str = STATE_DIR) -> None:
    """In a child: a disk may never answer. Raises OSError."""
    pending = handoff.expected(state_dir)
    if pending is None or pending.from_boot_id != sysfs.boot_id() or pending.refused:
        return  # its filesystem is unmounted already; or nobody expects anything, or hears of it anyway
    with writable(state_dir):
        handoff.write(replace(pending, refused=handoff.shortened(why)), state_dir)


@contextlib.contextmanager
def writable(directory: str) -> Iterator[None]:
    """Have the filesystem of `directory` open for a moment if it is closed already. Raises OSError."""
    point = _closed(directory)
    if point:
        syscalls.remount(point, 0)
    try:
        yield
    finally:
        if point:
            syscalls.remount_read_only(point)


def _closed(directory: str) -> str:
    """Where the filesystem of `directory` is mounted, if it is read-only; else nothing."""
    if not os.statvfs(directory).f_flag & os.ST_RDONLY:
        return ""
    place = f"{os.path.realpath(directory)}/"
    above = [mount for mount in mountinfo.read() if place.startswith(f"{mount.point.rstrip('/')}/")]
    nearest = max(len(mount.point) for mount in above)
    return [mount.point for mount in above if len(mount.point) == nearest][-1]
