# SPDX-License-Identifier: MIT
"""The lab's cache, `<repo>/.cache/vm`: one builder at a time, nothing half written, nothing in use removed.

What lies there:

    base-<recipe>-<key>.tar                      the Debian root, without the project
    image-<recipe>-<key>-<project>/              a GuestImage: disks, kernel, initrd
    image-.../snapshot-<key>/                    a booted guest of that image
    image-.../snapshot-<key>-later/              the same after it has installed its later kernels
    kvm-<boot id>                                whether KVM works on this host, since it booted
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm.lab.errors import LabTimeout
from tests.vm.lab.progress import say, step

REPO = Path(__file__).resolve().parents[3]

# Descriptors that hold the lock of each directory this process uses. Kept open for good: the snapshots that
# tests start from lie in those directories, also while no guest runs.
_USED: dict[Path, int] = {}

LOCK_TIMEOUT = 1800.0
"""Seconds to wait for another process that builds: the slowest mirror's whole build, twice."""


def cache_dir() -> Path:
    """The cache directory, made if it is missing."""
    path = REPO / ".cache" / "vm"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def build_lock(what: str = "guest") -> Iterator[None]:
    """Hold the cache's only lock to build a `what`; LabTimeout when another process keeps it for too long."""
    with (cache_dir() / f"lock-{what}").open("w") as file:
        if not _try_lock(file.fileno(), fcntl.LOCK_EX):
            with step(f"waiting for another process that builds a {what}"):
                deadline = time.monotonic() + LOCK_TIMEOUT
                while not _try_lock(file.fileno(), fcntl.LOCK_EX):
                    if time.monotonic() > deadline:
                        raise LabTimeout(
                            f"the build lock {file.name} was not free within {LOCK_TIMEOUT:.0f} s"
                        )
                    time.sleep(0.5)
        yield


def use(directory: Path) -> None:
    """Keep a cached directory from being pruned as long as this process lives, and make it the newest.

    FileNotFoundError when it is not there, or another process is removing it.
    """
    if directory not in _USED:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH)
        if not directory.is_dir():
            os.close(fd)
            raise FileNotFoundError(directory)
        _USED[directory] = fd
    os.utime(directory)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A scratch directory that becomes `target` when the block ends well, and vanishes when it does not."""
    scratch = Path(tempfile.mkdtemp(prefix=f"tmp-{target.name}-", dir=target.parent))
    try:
        yield scratch
        for path in scratch.iterdir():
            _sync(path)
        scratch.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def new_file(target: Path, write: Callable[[Path], None]) -> Path:
    """Have `write` make a file beside `target`, then rename it into place."""
    scratch = target.with_name(f"tmp-{target.name}")
    try:
        write(scratch)
        _sync(scratch)
        scratch.rename(target)
        _sync(target.parent)
    finally:
        scratch.unlink(missing_ok=True)
    return target


def prune(prefix: str, keep: int) -> None:
    """Remove all but the `keep` most recently used entries that begin with `prefix`, sparing those in use.

    Call it under build_lock(); what an interrupted build of them left behind goes too.
    """
    cache = cache_dir()
    entries = sorted(cache.glob(f"{prefix}*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in [*entries[keep:], *cache.glob(f"tmp-{prefix}*")]:
        if not path.is_dir():
            path.unlink()
        elif not _remove_unless_used(path):
            continue
        say(f"removed {path.name} from the cache")


def _remove_unless_used(directory: Path) -> bool:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Held until all is gone, so that a process that wants to use it waits and then sees that.
        unused = _try_lock(fd, fcntl.LOCK_EX)
        if unused:
            shutil.rmtree(directory)
        return unused
    finally:
        os.close(fd)


def _try_lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
