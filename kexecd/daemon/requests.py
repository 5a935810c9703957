# SPDX-License-Identifier: MIT
"""The door for kexecctl itself (kexecd.cli.resident): root's words come in, and a copy of the daemon does them.

The copy holds the connection, and answers on it by itself; so the daemon may die at any moment, and what has begun goes
on. One copy, the hand, is there before; who comes while it is at work, or not ready yet, gets one of its own. What is
new of the files of kexecd is not in memory here: a daemon that was overtaken by an upgrade answers nobody.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable

from kexecd.cli.resident import is_there
from kexecd.daemon import child, hand
from kexecd.daemon.request import FDS, Request, parse
from kexecd.errors import Busy
from kexecd.kernel.resting import Resting
from kexecd.loop import Loop, Timer

NAME = "request"
LIMIT = 1 << 17  # bytes of a request
PATIENCE = 5.0  # seconds for a caller to say what it wants
NAMESPACES = ("mnt", "pid", "user")

CALM = 0.2
"""Seconds from the end of a request until a hand is made for the next: the next one often follows at once."""


class Door:
    """The listening end, in `run_dir`, for root in our own namespaces. Raises Busy if another daemon listens there.

    current: whether what is in memory is still what is installed. over: called when it is not.
    begun: how many requests there were so far.
    """

    def __init__(self, loop: Loop, run_dir: str, *, current: Callable[[], bool], over: Callable[[], object]) -> None:
        self._loop, self._current, self._over = loop, current, over
        self._path = os.path.join(run_dir, NAME)
        self._at_work: set[int] = set()
        self._hand: Resting | None = None
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
        loop.after(CALM, self._have_a_hand)

    @property
    def at_work(self) -> int:
        """How many requests are being done."""
        return len(self._at_work)

    def close(self) -> None:
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        if self._hand:
            self._hand.close()
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
                if not self._taken_in_hand(connection, message, fds):
                    self._begin(connection, request)
            elif request:
                self._over()
        except OSError:  # it has left, or there is no room for another process; then it does it by itself
            pass
        finally:
            for fd in fds:
                os.close(fd)
            self._leave(connection)

    def _taken_in_hand(self, connection: socket.socket, message: bytes, fds: list[int]) -> bool:
        taken = self._hand
        if taken is None or not taken.send(message, (connection.fileno(), *fds)):
            return False
        self._hand = None
        taken.close()
        self._at_work.add(taken.pid)
        self.begun += 1
        return True

    def _begin(self, connection: socket.socket, request: Request) -> None:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = _serve(connection, request)
            finally:
                os._exit(status)
        self._at_work.add(pid)
        self.begun += 1
        self._reap_at_its_end(pid)

    def _have_a_hand(self) -> None:
        """Unless there is one, or somebody is at work: nobody is to wait for it then."""
        if self._hand or self._at_work:
            return
        with contextlib.suppress(OSError):  # each request gets a copy of its own then
            self._hand = hand.make()
            self._reap_at_its_end(self._hand.pid)

    def _reap_at_its_end(self, pid: int) -> None:
        ended = os.pidfd_open(pid)
        self._loop.watch(ended, lambda: self._reap(pid, ended))

    def _reap(self, pid: int, ended: int) -> None:
        self._loop.forget(ended)
        os.close(ended)
        os.waitpid(pid, 0)
        self._at_work.discard(pid)
        if self._hand and self._hand.pid == pid:
            self._hand.close()
            self._hand = None
        else:
            self._loop.after(CALM, self._have_a_hand)


def _lives_here(pid: int) -> bool:
    """Whether a process has our namespaces and our root directory, so that a path means to it what it means to us."""
    try:
        same = all(os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES)
        return same and os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat("/"))
    except OSError:  # it has left
        return False


def _serve(connection: socket.socket, request: Request) -> int:
    """In the copy of one request."""
    request.take_place()
    child.leave_daemon(keep=connection.fileno())
    return hand.serve(connection, request)
