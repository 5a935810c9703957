# SPDX-License-Identifier: MIT
"""A copy of this process that is there before there is anything for it to do.

A fork(2) is quick; what takes time is the first write to each page after it, in both of them, and whatever is made only
when it is needed first. Where somebody will be in a hurry, that is done while nobody is.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence

from kexecd.kernel.spawn import MOST_FDS

MESSAGE = 1 << 17
"""Bytes of a message at most; a socket takes 208 KiB (net.core.wmem_default)."""

FDS = 8  # of a message at most
READY = b"r"

Work = Callable[[bytes, tuple[int, ...]], object]
"""What is done with a message, and with descriptors that are its to close."""


class Resting:
    """Does what it is told, one after the other, and ends with whoever has made it. pid: its process, a child of ours.

    A copy of us that is forked later has none: what it would send comes from somebody whom it does not know.
    """

    def __init__(self, work: Work, prepare: Callable[[], object] | None = None) -> None:
        """work and prepare, which comes first, are called in the copy; nothing of ours is open there. Raises OSError
        where there is no process to be had."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._owner, self._ready = os.getpid(), False
        try:
            self.pid = os.fork()
        except OSError:
            self._channel.close()
            theirs.close()
            raise
        if self.pid == 0:
            try:
                os.closerange(3, theirs.fileno())
                os.closerange(theirs.fileno() + 1, MOST_FDS)
                _serve(theirs, work, prepare)
            except BaseException:
                import traceback  # late: only for a bug

                traceback.print_exc()
            finally:
                os._exit(0)  # and never by an end that closes what the closed descriptors belonged to
        theirs.close()
        self._channel.setblocking(False)

    def send(self, message: bytes, fds: Sequence[int] = ()) -> bool:
        """Never waits. False if it has ended or is not prepared yet: then nobody does it."""
        if os.getpid() != self._owner:
            return False
        try:
            self._ready = self._ready or self._channel.recv(1) == READY
            if self._ready:
                socket.send_fds(self._channel, [message], fds)
        except OSError:
            return False
        return self._ready

    def close(self) -> None:
        """It ends when it has done what it has been told."""
        self._channel.close()


def _serve(channel: socket.socket, work: Work, prepare: Callable[[], object] | None) -> None:
    if prepare:
        prepare()
    with contextlib.suppress(OSError):  # whoever has made it has ended
        channel.send(READY)
        while True:
            message, fds, _, _ = socket.recv_fds(channel, MESSAGE, FDS, socket.MSG_CMSG_CLOEXEC)
            if not message:
                return
            work(message, tuple(fds))
