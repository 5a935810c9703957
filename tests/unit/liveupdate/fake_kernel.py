# SPDX-License-Identifier: MIT
"""A stand-in for /dev/liveupdate, which this machine's kernel does not have: its answers as Linux 7.3.4 gives them.

Sessions are real descriptors, and live as long as one of them is open in this process. What it cannot do is keep a
preserved memfd from growing: that is for the guests (tests/vm).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from dataclasses import dataclass, field
from typing import NoReturn

import pytest

from kexecd.liveupdate import luo
from kexecd.loop import Ended, Loop


@dataclass
class Session:
    name: str
    incoming: bool = False
    files: dict[int, int] = field(default_factory=dict)  # token: descriptor of ours
    finished: bool = False


class FakeKernel:
    """held: somebody else has the device open. refuse: errno for PRESERVE_FD, by the size of the file."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.held = False
        self.refuse: dict[int, int] = {}
        self.opened = 0
        self._devices: set[tuple[int, int]] = set()
        self._sessions: dict[int, Session] = {}  # by the inode of what stands for them
        self._incoming: dict[str, Session] = {}
        patch.setattr(luo, "available", lambda: True)
        patch.setattr(luo, "_try", self._open)
        patch.setattr(fcntl, "ioctl", self._ioctl)

    def alive(self) -> list[Session]:
        """The sessions that somebody has open."""
        there = set()
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                there.add(os.fstat(int(fd)).st_ino)
        return [session for inode, session in self._sessions.items() if inode in there]

    def kexec(self, damage: tuple[bytes, bytes] = (b"", b"")) -> None:
        """What is preserved is there in the next kernel, everything else is gone. damage: what becomes of what on the
        way."""
        self._incoming = {}
        for session in self.alive():
            if not session.incoming:
                files = {token: _copy(fd, damage) for token, fd in session.files.items()}
                self._incoming[session.name] = Session(session.name, incoming=True, files=files)
        self._sessions = {}

    def firmware(self) -> None:
        self._incoming, self._sessions = {}, {}

    def _open(self) -> int:
        if self.held:
            _no(errno.EBUSY)
        self.opened += 1
        fd = os.memfd_create("device")
        self._devices.add((fd, os.fstat(fd).st_ino))
        return fd

    def _ioctl(self, fd: int, request: int, given: bytearray, mutate: bool = True) -> int:
        assert mutate
        assert len(given) == struct.unpack_from("=I", given)[0], "the kernel looks at the size first"
        if request in (luo.CREATE_SESSION, luo.RETRIEVE_SESSION):
            assert (fd, os.fstat(fd).st_ino) in self._devices, "the device is asked for sessions"
            name = bytes(given[8:]).partition(b"\0")[0].decode()
            made = self._create(name) if request == luo.CREATE_SESSION else self._retrieve(name)
            struct.pack_into("=i", given, 4, made)
            return 0
        session = self._sessions.get(os.fstat(fd).st_ino)
        if session is None:
            _no(errno.ENOTTY)
        _, second, *rest = struct.unpack("=IiQ" if len(given) == 16 else "=Ii", given)
        if request == luo.PRESERVE_FD:
            self._preserve(session, second, rest[0])
        elif request == luo.RETRIEVE_FD:
            struct.pack_into("=i", given, 4, _take(session, rest[0]))
        elif request == luo.FINISH:
            if not session.incoming:
                _no(errno.EINVAL)
            session.finished = True
        else:
            _no(errno.EINVAL)
        return 0

    def _create(self, name: str) -> int:
        if any(session.name == name and not session.incoming for session in self.alive()):
            _no(errno.EEXIST)
        return self._add(Session(name))

    def _retrieve(self, name: str) -> int:
        session = self._incoming.get(name)
        if session is None or session.finished:
            _no(errno.ENOENT)
        if session in self.alive():
            _no(errno.EINVAL)
        return self._add(session)

    def _add(self, session: Session) -> int:
        fd = os.memfd_create("session")
        self._sessions[os.fstat(fd).st_ino] = session
        return fd

    def _preserve(self, session: Session, fd: int, token: int) -> None:
        if session.incoming:
            _no(errno.EINVAL)
        if token in session.files:
            _no(errno.EEXIST)
        try:
            inode = os.fstat(fd).st_ino
            fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as error:
            _no(errno.EBADF if error.errno == errno.EBADF else errno.ENOENT)
        if any(os.fstat(kept).st_ino == inode for one in self.alive() for kept in one.files.values()):
            _no(errno.EBUSY)
        if number := self.refuse.get(os.fstat(fd).st_size):
            _no(number)
        session.files[token] = os.dup(fd)


class Inline(Loop):
    """A loop whose children are none: what they would do is seen by the fake."""

    def child(self, work, done, *, seconds, limit=16 << 20) -> int:  # type: ignore[no-untyped-def]
        del seconds
        reader, writer = os.pipe()
        code = work(writer)
        os.close(writer)
        with open(reader, "rb") as file:
            output = file.read(limit)
        self.after(0.0, lambda: done(Ended(code, output)))
        return 0


def _take(session: Session, token: int) -> int:
    if not session.incoming:
        _no(errno.EINVAL)
    if token not in session.files:
        _no(errno.ENOENT)
    return os.dup(session.files[token])


def _copy(fd: int, damage: tuple[bytes, bytes]) -> int:
    new = os.memfd_create("", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    content = os.pread(fd, os.fstat(fd).st_size, 0)
    os.write(new, content.replace(*damage) if damage[0] else content)
    os.lseek(new, os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_SET)
    fcntl.fcntl(new, fcntl.F_ADD_SEALS, fcntl.fcntl(fd, fcntl.F_GET_SEALS))
    return new


def _no(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))
