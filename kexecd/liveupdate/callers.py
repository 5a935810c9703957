# SPDX-License-Identifier: MIT
"""Who asks the holder: connections to its socket, /run/kexecd/state, which are heard, answered and hung up.

Part of a Loop: nothing here waits. What takes time is done beside it, by a child or a thread, and who asked for it is
heard again when that has ended; so one connection has one question under way. Who somebody is, the kernel says
(SO_PEERCRED, unix(7)). What is to be done about a question, whoever made this says: kexecd.liveupdate.server.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator

from kexecd.errors import Busy, Refusal
from kexecd.liveupdate import beside, freezing, memory, protocol
from kexecd.liveupdate.child import Child
from kexecd.liveupdate.freezing import Report
from kexecd.liveupdate.place import is_there
from kexecd.liveupdate.protocol import Malformed, Question
from kexecd.loop import Ended, Loop

MOST = 256  # connections
EACH = 16  # connections of one user
IDLE = 60.0  # seconds that a connection may be silent

Asked = Callable[["Caller", Question, int], bool]
"""Answers a question, or begins what will. Is given the descriptor that came with a put, else -1, and returns whether
it keeps that one. A Refusal or an OSError that it raises is the answer."""


class Caller:
    """One connection, among `callers` for as long as it has not been hung up. uid: of who has connected."""

    def __init__(self, loop: Loop, connection: socket.socket, uid: int, asked: Asked, callers: set[Caller]) -> None:
        self.uid = uid
        self._loop, self._socket, self._asked, self._callers = loop, connection, asked, callers
        callers.add(self)
        self._listen()

    def send(self, answer: bytes, *fds: int) -> None:
        """An answer of kexecd.liveupdate.protocol, and descriptors, which stay ours. Who has left gets none."""
        if self not in self._callers:
            return
        try:
            socket.send_fds(self._socket, [answer], list(fds))
        except OSError:  # it does not listen, or has left
            self.leave()

    def in_child(self, work: Callable[[], Report], done: Callable[[Report], None], *, seconds: float) -> Child:
        """Have a child do `work`, and call done() in the loop with what it reports, or why there is nothing of it.

        The caller is not heard until then, and may be silent. The child is killed after `seconds`; whoever ends it
        before has that reported too. Raises OSError where there is none to be had.
        """
        with self._unheard(done, seconds) as ended:
            return Child(self._loop.child(freezing.reporting(work), ended, seconds=seconds))

    def in_thread(self, work: Callable[[], Report], done: Callable[[Report], None], *, seconds: float) -> None:
        """The same, by a thread of ours, which after `seconds` is not waited for any longer. Raises OSError."""
        with self._unheard(done, seconds) as ended:
            beside.thread(self._loop, freezing.reporting(work), ended, seconds=seconds)

    def leave(self) -> None:
        """Hang up, unless that has been done."""
        self._idle.cancel()
        if self in self._callers:
            self._callers.remove(self)
            self._loop.forget(self._socket.fileno())
            self._socket.close()

    def _listen(self) -> None:
        """Hear it from here on, unless it has been hung up; its silence begins anew."""
        if self in self._callers:
            self._loop.watch(self._socket.fileno(), self._hear)
            self._idle = self._loop.after(IDLE, self.leave)

    def _hear(self) -> None:
        try:
            message, fds, flags, _ = socket.recv_fds(self._socket, protocol.LIMIT, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            self.leave()
            return
        if not message and not fds:
            self.leave()
            return
        self._idle.cancel()
        self._idle = self._loop.after(IDLE, self.leave)
        kept = False
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Malformed("the question is too long, came with too many descriptors, or there is no room for one")
            question = protocol.parse(message, len(fds))
            if question.do.is_roots and self.uid:
                self.send(protocol.refused(f"only root may {question.do}", errno.EPERM))
            else:
                kept = self._asked(self, question, fds[0] if fds else -1)
        except Malformed as wrong:
            self.send(protocol.refused(str(wrong)))
        except Refusal as no:
            self.send(protocol.refusal(no))
        except OSError as error:
            self.send(protocol.refused((error.strerror or str(error)).lower(), error.errno or errno.EIO))
        finally:
            for fd in fds if not kept else ():
                memory.discard(fd)

    @contextlib.contextmanager
    def _unheard(self, done: Callable[[Report], None], seconds: float) -> Iterator[Callable[[Ended], None]]:
        """What is to be called when it has ended; if that cannot be begun, the caller is heard again."""

        def ended(end: Ended) -> None:
            self._listen()
            done(_report(end, seconds))

        self._loop.forget(self._socket.fileno())
        self._idle.cancel()
        try:
            yield ended
        except OSError:
            self._listen()
            raise


class Callers:
    """The socket at `path`, and everybody who has connected to it. Raises Busy if another holder listens there, and
    OSError.

    asked: is given each question that is understood, and that its caller may ask.
    """

    def __init__(self, loop: Loop, path: str, asked: Asked) -> None:
        self._loop, self._path, self._asked = loop, path, asked
        self._callers: set[Caller] = set()
        if is_there(path):
            raise Busy("cannot hold what applications hand over", f"another holder listens at {path} already")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of one that was killed
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = os.umask(0o111)
        try:
            self._listener.bind(path)
        finally:
            os.umask(before)
        self._listener.listen(128)
        self._listener.setblocking(False)

    def start(self) -> None:
        """Hear them from here on: who has connected meanwhile has waited."""
        self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Hang up on everybody, and take the socket away."""
        for caller in tuple(self._callers):
            caller.leave()
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            _, uid, _ = struct.unpack("iIi", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if len(self._callers) >= MOST or sum(other.uid == uid for other in self._callers) >= EACH:
                with contextlib.suppress(OSError):
                    connection.send(protocol.refused("there are too many connections", errno.EAGAIN))
                connection.close()
                return
            Caller(self._loop, connection, uid, self._asked, self._callers)


def _report(end: Ended, seconds: float) -> Report:
    if end.late:
        return Report(f"it did not end within {seconds:g} s", errno.ETIMEDOUT)
    try:
        return freezing.read_report(end.output)
    except (ValueError, TypeError):
        return Report(f"the process that did it ended with {end.code}", errno.EIO)
