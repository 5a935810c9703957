# SPDX-License-Identifier: MIT
"""A descriptor that somebody hands over: whether it is a memfd that can be carried, and what has to come back of it.

It comes from anybody, so nothing is called on it that its filesystem could keep waiting before it is known to be
memory: the kernel answers for seals without asking one (memfd_create(2), fcntl(2)).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import threading
from dataclasses import dataclass

from kexecd.errors import ExitCode, Refusal, Unsupported

F_SEAL_EXEC = 0x20  # include/uapi/linux/fcntl.h, Linux 6.3
SEALS = (
    fcntl.F_SEAL_SEAL
    | fcntl.F_SEAL_SHRINK
    | fcntl.F_SEAL_GROW
    | fcntl.F_SEAL_WRITE
    | 0x10  # F_SEAL_FUTURE_WRITE, which Python does not name
    | F_SEAL_EXEC
)
"""What live update carries (include/linux/kho/abi/memfd.h), and what files do too."""

FINAL = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""With these nothing of it can change any more."""

PART = 1 << 20  # bytes that are read at once

_KINDS = {"pipe": "a pipe", "socket": "a socket", "anon_inode": "a descriptor of the kernel's", "/memfd": "a memfd"}


class Lost(Refusal):
    """Something that an application has handed over would be gone, or is."""

    exit_code = ExitCode.DIRTY


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a memfd comes back with its content. bytes: its size; position: of the descriptor; mode: permissions."""

    bytes: int
    seals: int
    position: int
    mode: int

    @property
    def final(self) -> bool:
        """Whether neither content nor size can change any more."""
        needed = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        return self.seals & needed == needed


def shape(fd: int) -> Shape:
    """Of a memfd that can be carried. Raises Unsupported, with what it is instead."""
    what = "cannot take this descriptor"
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise Unsupported(what, f"it is {kind(fd)}, and only a memfd can be carried", errno=errno.EINVAL) from error
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        # It would come back as one that writes, whoever has it.
        raise Unsupported(what, "it is not open to read and write", errno=errno.EACCES)
    status = os.fstat(fd)
    if status.st_nlink:
        raise Unsupported(what, "it is a file that has a name, and only a memfd can be carried", errno=errno.EINVAL)
    if os.fstatvfs(fd).f_bsize != mmap.PAGESIZE:
        raise Unsupported(what, "it is made of huge pages, which the kernel cannot carry", errno=errno.EINVAL)
    if unknown := seals & ~SEALS:
        raise Unsupported(what, f"it has seals that nobody here knows: {unknown:#x}", errno=errno.EOPNOTSUPP)
    return Shape(status.st_size, seals, os.lseek(fd, 0, os.SEEK_CUR), status.st_mode & 0o7777)


def identity(fd: int) -> tuple[int, int]:
    """What two descriptors of one memfd have in common."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def kind(fd: int) -> str:
    """What a descriptor is, without asking whatever is behind it."""
    try:
        head, colon, _ = os.readlink(f"/proc/self/fd/{fd}").partition(":")
    except OSError:
        return "nothing that is open"
    return _KINDS.get(head, "a file or a device") if colon else "a file or a device"


def sha256(fd: int) -> str:
    """Of the content, read without moving the position. Raises OSError."""
    import hashlib  # late: it loads OpenSSL, and who only wants to know what a descriptor is has no use for it

    digest, buffer, position = hashlib.sha256(), memoryview(bytearray(PART)), 0
    while count := os.preadv(fd, [buffer], position):
        digest.update(buffer[:count])
        position += count
    return digest.hexdigest()


def make(name: str, mode: int) -> int:
    """An empty memfd that can be sealed."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(fd, mode)
    return fd


def complete(fd: int, wanted: Shape) -> None:
    """Seals and position, when the content is there. Raises OSError, EPERM where it cannot be sealed so."""
    if wanted.seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, wanted.seals)
    os.lseek(fd, wanted.position, os.SEEK_SET)


def discard(fd: int) -> None:
    """Close a descriptor that may be anything: close(2) of a file on a network waits for its server.

    In a thread of its own, which nobody waits for: a file is flushed by whoever closes it. Where there is none to be
    had it stays open.
    """
    try:
        shape(fd)
    except Refusal:
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=os.close, args=(fd,), daemon=True).start()
    else:
        os.close(fd)
