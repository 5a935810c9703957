# SPDX-License-Identifier: MIT
"""Files, handled as root must: a path may be a FIFO, a device or 10 GiB, and power may fail during any write."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping

from kexecd.errors import BadImage, Refusal
from kexecd.model import OpenFile

MOST_LINKS = 40  # MAXSYMLINKS in include/linux/namei.h
PAGE = 4096  # bytes
TEXT_LIMIT = 1 << 20  # bytes; no text file that we read has a reason to be larger


def join_root(root: str, path: str) -> str:
    """The path `path`, seen from inside `root`, as this process has to open it.

    In a captured tree the links are followed here, inside of it; on this machine the kernel does it in one go.
    """
    return path if root == "/" else root.rstrip("/") + resolve(path, root)


def resolve(path: str, root: str = "/") -> str:
    """`path` with every symbolic link followed inside `root`; what does not exist, and a loop, stays as it is."""
    top, done, rest, links = root.rstrip("/"), "", path.split("/")[::-1], 0
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        try:
            link = os.readlink(f"{top}{done}/{part}")
        except (OSError, ValueError):  # no link, not there, or no name that a file can have
            done = f"{done}/{part}"
            continue
        links += 1
        if links > MOST_LINKS:
            return path
        done = "" if link.startswith("/") else done
        rest += link.split("/")[::-1]
    return done or "/"


def open_regular(path: str, what: str, *, root: str = "/", refusal: type[Refusal] = BadImage) -> OpenFile:
    """Open a regular file for reading, once; the caller owns the descriptor.

    Raises `refusal` for anything that is not a non-empty regular file.
    """
    try:
        fd = _open(join_root(root, path))
    except _NotRegular as other:
        raise refusal(f"cannot use {path} as {what}", f"it is a {other.kind}") from other
    except OSError as error:
        why = "there is no such file" if error.errno == errno.ENOENT else _strerror(error)
        raise refusal(f"cannot use {path} as {what}", why, errno=error.errno or 0) from error
    status = os.fstat(fd)
    if status.st_size == 0:
        os.close(fd)
        raise refusal(f"cannot use {path} as {what}", "it is empty")
    return OpenFile(path, fd, status.st_size, stamp(status))


def stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when a file's content does."""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def read_text(path: str, *, root: str = "/", limit: int = TEXT_LIMIT) -> str | None:
    """A small text file's content, or None if there is no such file. Undecodable bytes survive as surrogates.

    Raises OSError: EFBIG when it is larger than `limit` bytes, EINVAL when it is not a regular file.
    """
    try:
        fd = _open(join_root(root, path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = _read(fd, limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", path)
    return data.decode(errors="surrogateescape")


def write_atomic(path: str, data: bytes, *, mode: int = 0o644, flush: bool = True) -> None:
    """Replace a file so that, whenever the power fails, either the old or the new content is there, whole.

    flush: False where the filesystem is written back as a whole right afterwards, and none of both is no loss.
    """
    directory, name = os.path.split(path)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")  # as `_writer` reads it
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            if flush:
                os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if flush:
        sync_directory(directory)


def write_json(path: str, record: Mapping[str, object], *, mode: int = 0o644) -> None:
    write_atomic(path, json.dumps(record, indent=2, sort_keys=True).encode() + b"\n", mode=mode)


def sweep(directory: str) -> None:
    """Remove what write_atomic has left in there where it was cut short, by a power cut or with its process.

    Only regular files of our own user whose process is gone, and none through a link. Raises OSError.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(fd):
            pid = _writer(name)
            if pid and not os.path.exists(f"/proc/{pid}") and _is_our_file(name, fd):
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)


def remove(path: str) -> None:
    """Remove a file for good, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    sync_directory(os.path.dirname(path))


def sync_directory(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _writer(name: str) -> int:
    """The process that has made a temporary file of this name, `.NAME.PID`; 0 for any other name."""
    head, _, pid = name.rpartition(".")
    ours = len(head) > 1 and head.startswith(".") and pid.isascii() and pid.isdigit() and not pid.startswith("0")
    return int(pid) if ours else 0


def _is_our_file(name: str, directory: int) -> bool:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


class _NotRegular(OSError):
    def __init__(self, kind: str, path: str) -> None:
        super().__init__(errno.EINVAL, "not a regular file", path)
        self.kind = kind


def _open(path: str) -> int:
    """Open what is a regular file before and after it is opened; raises OSError, _NotRegular for anything else.

    Before: opening is already a deed with some devices, a watchdog or a tape. After: it may be another one by now, and
    O_NONBLOCK keeps a FIFO from holding us.
    """
    _check(os.stat(path), path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _check(os.fstat(fd), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _NotRegular(_kind(status.st_mode), path)


def _read(fd: int, most: int) -> bytes:
    data = b""
    # Little at first: for a read from /proc/sys the kernel clears as many bytes as it is asked for (proc_sysctl.c).
    while len(data) < most and (part := os.read(fd, min(most - len(data), max(PAGE, len(data))))):
        data += part
    return data


def _kind(mode: int) -> str:
    for test, kind in (
        (stat.S_ISDIR, "directory"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
        (stat.S_ISSOCK, "socket"),
    ):
        if test(mode):
            return kind
    return "file"


def _strerror(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)
