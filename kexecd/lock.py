# SPDX-License-Identifier: MIT
"""One restart at a time. The kernel releases the lock when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator

from kexecd.errors import Busy, NotPermitted

LOCK_FILE = "lock"


@contextlib.contextmanager
def hold(run_dir: str, deed: str) -> Iterator[None]:
    """Hold the lock over `deed`, also in a child that is forked meanwhile.

    Raises NotPermitted for whoever may not write to `run_dir`, and Busy, naming the holder.
    """
    try:
        os.makedirs(run_dir, mode=0o755, exist_ok=True)
        fd = os.open(os.path.join(run_dir, LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except PermissionError as error:
        hint = "try again with sudo"
        raise NotPermitted(f"cannot {deed}", "only root may", hint=hint, errno=error.errno or 0) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"cannot {deed}", f"{_holder(fd)} is at it already") from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"pid": os.getpid(), "deed": deed}).encode(), 0)
        yield
    finally:
        os.close(fd)


def _holder(fd: int) -> str:
    try:
        record = json.loads(os.pread(fd, 4096, 0))
        return f"process {int(record['pid'])} ({record['deed']})"
    except (ValueError, KeyError, TypeError):
        return "another kexecctl"
