# SPDX-License-Identifier: MIT
"""The door for kexecctl itself (kexecd.cli.resident): root's words come in, and a copy of the daemon does them.

The copy holds the connection, and answers on it by itself; so the daemon may die at any moment, and what has begun goes
on. What is new of the files of kexecd is not in memory here: a daemon that was overtaken by an upgrade answers nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from kexecd import __version__
from kexecd.cli.resident import BEGUN, ENVIRONMENT, is_there
from kexecd.daemon import child
from kexecd.errors import Busy, ExitCode
from kexecd.kernel.descriptors import readable
from kexecd.loop import Loop, Timer
from kexecd.teardown import spare

NAME = "request"
LIMIT = 1 << 17  # bytes of a request
FDS = 4  # the streams, and the working directory
PATIENCE = 5.0  # seconds for a caller to say what it wants
NAMESPACES = ("mnt", "pid", "user")
F_SETSIG = 10  # include/uapi/asm-generic/fcntl.h


@dataclass(frozen=True, slots=True)
class Request:
    """fds: the caller's streams and its working directory, open here."""

    words: tuple[str, ...]
    environment: dict[str, str]
    encoding: str
    errors: str
    fds: tuple[int, ...]
    pid: int


class Door:
    """The listening end, in `run_dir`, for root in our own namespaces. Raises Busy if another daemon listens there.

    current: whether what is in memory is still what is installed. over: called when it is not.
    begun: how many requests there were so far.
    """

    def __init__(self, loop: Loop, run_dir: str, *, current: Callable[[], bool], over: Callable[[], object]) -> None:
        self._loop, self._current, self._over = loop, current, over
        self._path = os.path.join(run_dir, NAME)
        self._at_work: set[int] = set()
        self.begun = 0
        if is_there(self._path):
            raise Busy("cannot start the daemon", f"another one listens at {self._path} already")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # of one that was killed
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = os.umask(0o177)
        try:
            self._listener.bind(self._path)
        finally:
            os.umask(before)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._ours = os.stat(self._path).st_ino
        loop.watch(self._listener.fileno(), self._accept)

    @property
    def at_work(self) -> int:
        """How many requests are being done."""
        return len(self._at_work)

    def close(self) -> None:
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._ours:
                os.unlink(self._path)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid or not _lives_here(pid):
                connection.close()  # it does by itself whatever it may
                return
            connection.setblocking(False)
            late = self._loop.after(PATIENCE, lambda: self._leave(connection))
            self._loop.watch(connection.fileno(), lambda: self._hear(connection, pid, late))

    def _leave(self, connection: socket.socket) -> None:
        self._loop.forget(connection.fileno())
        connection.close()

    def _hear(self, connection: socket.socket, pid: int, late: Timer) -> None:
        late.cancel()
        fds: list[int] = []
        try:
            message, fds, flags, _ = socket.recv_fds(connection, LIMIT, FDS, socket.MSG_CMSG_CLOEXEC)
            request = None if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) else parse(message, fds, pid)
            if request and self._current():
                self._begin(connection, request)
            elif request:
                self._over()
        except OSError:  # it has left, or there is no room for another process; then it does it by itself
            pass
        finally:
            for fd in fds:
                os.close(fd)
            self._leave(connection)

    def _begin(self, connection: socket.socket, request: Request) -> None:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = _serve(connection, request)
            finally:
                os._exit(status)
        ended = os.pidfd_open(pid)
        self._at_work.add(pid)
        self.begun += 1
        self._loop.watch(ended, lambda: self._reap(pid, ended))

    def _reap(self, pid: int, ended: int) -> None:
        self._loop.forget(ended)
        os.close(ended)
        os.waitpid(pid, 0)
        self._at_work.discard(pid)


def parse(message: bytes, fds: list[int], pid: int) -> Request | None:
    """What a message says; None for one of another version of kexecctl, or of somebody else."""
    parts = [os.fsdecode(part) for part in message.split(b"\0")[:-1]]
    first = 3 + len(ENVIRONMENT)
    if len(parts) <= first or parts[0] != __version__ or len(fds) != FDS:
        return None
    told = {name: text for name, text in zip(ENVIRONMENT, parts[3:first], strict=True) if text}
    return Request(tuple(parts[first:]), told, parts[1], parts[2], tuple(fds), pid)


def _lives_here(pid: int) -> bool:
    """Whether a process has our namespaces and our root directory, so that a path means to it what it means to us."""
    try:
        same = all(os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES)
        return same and os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat("/"))
    except OSError:  # it has left
        return False


def _serve(connection: socket.socket, request: Request) -> int:
    """In the copy: be the caller's kexecctl, and say how it ended."""
    spare.on_behalf_of(request.pid)
    for number, fd in enumerate(request.fds[:3]):
        os.dup2(fd, number)
    os.fchdir(request.fds[3])
    child.leave_daemon(keep=connection.fileno())
    connection.setblocking(True)
    # Whoever walks the plan outlives us, and must not keep the caller waiting.
    os.register_at_fork(after_in_child=connection.close)
    try:
        connection.send(BEGUN)
    except OSError:  # it has given up, and does it by itself
        return ExitCode.FAILURE
    if not _be_interrupted_by(connection):
        return ExitCode.FAILURE
    status = child.run(request.words, request.environment, request.encoding, request.errors)
    with contextlib.suppress(OSError):  # it has left
        connection.send(b"%d" % status)
    return status


def _be_interrupted_by(connection: socket.socket) -> bool:
    """Take a Ctrl-C of the caller for one of ours, and its end too: whatever it says, and that it hangs up, is a SIGINT
    (fcntl(2), O_ASYNC). False if it has left by now."""
    fd = connection.fileno()
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, F_SETSIG, signal.SIGINT)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    return not readable(fd, 0.0)
