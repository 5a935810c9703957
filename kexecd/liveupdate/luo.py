# SPDX-License-Identifier: MIT
"""The kernel's live update orchestrator, /dev/liveupdate, as it was merged into Linux 6.19: sessions of descriptors.

include/uapi/linux/liveupdate.h, Documentation/userspace-api/liveupdate.rst. The device takes one opener at a time, and
PID 1 may want it too (systemd 261 and later): it is held for the instant of a call. What keeps things preserved is the
session's descriptor, in whatever process that is open until the jump; closing the last one gives everything back.

A session of the kernel before is retrieved once, finished, and made anew: it cannot be handed on as it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator

from kexecd.errors import Busy, NoMemory, NotPermitted, Refusal, Unsupported
from kexecd.kernel import inotify
from kexecd.kernel.descriptors import readable

DEVICE = "/dev/liveupdate"

# _IO(0xBA, nr), each: neither size nor direction is part of the number.
CREATE_SESSION, RETRIEVE_SESSION = 0xBA00, 0xBA01
PRESERVE_FD, RETRIEVE_FD, FINISH, GET_NAME = 0xBA40, 0xBA41, 0xBA42, 0xBA43

SESSION = struct.Struct("=Ii64s")  # size, fd (out), name
FD = struct.Struct("=IiQ")  # size, fd, token
PLAIN = struct.Struct("=II")  # size, reserved
NAMED = struct.Struct("=II64s")  # size, reserved, name

PATIENCE = 2.0  # seconds for somebody else to close the device
AGAIN = 0.01  # seconds; a close is told an instant before the device is free

_DEVICE = {
    errno.ENOENT: "this kernel has no live update, or it was booted without kho=on liveupdate=on",
    errno.ENXIO: "this kernel has no live update, or it was booted without kho=on liveupdate=on",
    errno.EBUSY: f"another process holds {DEVICE}, which takes one at a time",
    errno.EIO: "this kernel could not read what the one before it handed over; it says so in its log",
    errno.EACCES: "only root may",
    errno.EPERM: "only root may",
}
_CREATE = {
    errno.EEXIST: "a session of this name is being held already, by this process or another",
    errno.EINVAL: "the kernel does not take this name",
    errno.ENOMEM: "there is no memory for it",
}
_RETRIEVE = {
    errno.ENOENT: "the kernel before this one has handed over no session of this name, or it is finished",
    errno.EINVAL: "somebody has retrieved it already and holds it",
}
_PRESERVE = {
    errno.ENOENT: "the kernel cannot carry a file of this kind, only memfds",
    errno.EEXIST: "its number is taken in this session",
    errno.EBUSY: "it is being preserved already, in this session or in another one's",
    errno.EBADF: "this is no open descriptor",
    errno.ENOMEM: "there is no memory to keep it in place",
    errno.EFBIG: "it is too large for the kernel to carry",
    errno.EOPNOTSUPP: "it has seals that the kernel cannot carry",
    errno.ENOSPC: "the session is full",
    errno.EINVAL: "the session is one that has been retrieved, which takes nothing new",
}
_TAKE = {
    errno.ENOENT: "there is nothing of this number in the session",
    errno.ENOMEM: "there is no memory for it",
    errno.EINVAL: "the session is not one that has been retrieved",
}
_FINISH = {
    errno.EBUSY: "something in the session is still in use",
    errno.EINVAL: "the session is not one that has been retrieved",
}
_KINDS: dict[int, type[Refusal]] = {
    errno.EBUSY: Busy,
    errno.ENOMEM: NoMemory,
    errno.EACCES: NotPermitted,
    errno.EPERM: NotPermitted,
}


def available() -> bool:
    """Whether the running kernel offers it at all."""
    return os.path.exists(DEVICE)


def create(name: str, *, patience: float = PATIENCE) -> int:
    """A new session; its descriptor keeps what is preserved in it. Raises a Refusal.

    patience: seconds to wait for another opener of the device.
    """
    return _of_device(CREATE_SESSION, name, f"cannot begin the live update session {name}", _CREATE, patience)


def retrieve(name: str, *, patience: float = PATIENCE) -> int | None:
    """The session that the kernel before has handed over; None if there is none of this name. Raises a Refusal."""
    try:
        return _of_device(RETRIEVE_SESSION, name, f"cannot take over the session {name}", _RETRIEVE, patience)
    except Refusal as refusal:
        if refusal.errno == errno.ENOENT and available():
            return None
        raise


def preserve(session: int, fd: int, token: int) -> None:
    """From now on the file behind `fd` goes with a kexec, and cannot grow or shrink. Raises a Refusal."""
    _call(session, PRESERVE_FD, bytearray(FD.pack(FD.size, fd, token)), "cannot preserve a descriptor", _PRESERVE)


def take(session: int, token: int) -> int:
    """The descriptor that was preserved as `token`, close-on-exec and opened to read and write. Raises a Refusal."""
    given = bytearray(FD.pack(FD.size, -1, token))
    _call(session, RETRIEVE_FD, given, f"cannot take over descriptor {token}", _TAKE)
    return _cloexec(int(FD.unpack(given)[1]))


def finish(session: int) -> None:
    """What was taken over is ours alone from here on, what was not is freed. Raises a Refusal."""
    _call(session, FINISH, bytearray(PLAIN.pack(PLAIN.size, 0)), "cannot finish a session", _FINISH)


def session_name(fd: int) -> str:
    """The name of a session; empty for a descriptor of anything else.

    The kernel can be asked since Linux 7.2 (GET_NAME); before, and mostly cheaper, the link tells.
    """
    try:
        link = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
    head, _, name = link.partition("] ")
    if name and head.endswith("[luo_session"):
        return name
    given = bytearray(NAMED.pack(NAMED.size, 0, b""))
    try:
        fcntl.ioctl(fd, GET_NAME, given, True)
    except OSError:
        return ""
    return bytes(NAMED.unpack(given)[2]).partition(b"\0")[0].decode(errors="replace")


@contextlib.contextmanager
def _device(patience: float, what: str) -> Iterator[int]:
    fd = _open(patience, what)
    try:
        yield fd
    finally:
        os.close(fd)


def _open(patience: float, what: str) -> int:
    try:
        return _try()
    except OSError as error:
        if error.errno != errno.EBUSY or patience <= 0:
            raise _refusal(what, error, _DEVICE) from error
    try:
        return _open_when_free(time.monotonic() + patience)
    except OSError as error:
        raise _refusal(what, error, _DEVICE) from error


def _try() -> int:
    return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)


def _open_when_free(until: float) -> int:
    """Whoever has it open closes it after a call, if it is well-behaved. Raises OSError."""
    closed = inotify.watch(os.path.dirname(DEVICE))
    try:
        while True:
            try:
                return _try()
            except OSError as error:
                left = until - time.monotonic()
                if error.errno != errno.EBUSY or left <= 0:
                    raise
            # Not for as long as there is: between the telling and the closing it is still taken.
            wait = AGAIN if os.path.basename(DEVICE) in inotify.names(closed) else left
            readable(closed, min(wait, left))
    finally:
        os.close(closed)


def _of_device(request: int, name: str, what: str, sentences: dict[int, str], patience: float) -> int:
    encoded = name.encode()
    if not 0 < len(encoded) < 64:
        raise Unsupported(what, "the name of a session has 1 to 63 bytes", errno=errno.EINVAL)
    given = bytearray(SESSION.pack(SESSION.size, -1, encoded))
    with _device(patience, what) as device:
        _call(device, request, given, what, sentences)
    return _cloexec(int(SESSION.unpack(given)[1]))


def _call(fd: int, request: int, given: bytearray, what: str, sentences: dict[int, str]) -> None:
    try:
        fcntl.ioctl(fd, request, given, True)
    except OSError as error:
        raise _refusal(what, error, sentences) from error


def _refusal(what: str, error: OSError, sentences: dict[int, str]) -> Refusal:
    number = error.errno or 0
    why = sentences.get(number) or os.strerror(number).lower()
    return _KINDS.get(number, Unsupported)(what, why, errno=number)


def _cloexec(fd: int) -> int:
    os.set_inheritable(fd, False)  # the kernels seen so far do it; the interface does not promise it
    return fd
