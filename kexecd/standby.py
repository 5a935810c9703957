# SPDX-License-Identifier: MIT
"""The process that finishes the job when the one that walks the plan dies or gets stuck.

A copy of the walker, forked before its first step, that knows the plan as well as the walker does and waits at the
other end of a socket. Whoever kills the walker closes that socket. Before the commit point the standby then takes back
what was begun; after it, it finishes the way down, since a machine that is half down and waits for a person is the one
end that nobody may see. A copy and not a new program: what it needs is in memory, whatever became of the disks.

Silence counts as death only after the commit point. Before it a stuck walker harms nobody, and may be killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable

from kexecd.executor import Witness

SILENCE = 30.0
"""Seconds without a word after the commit point; the walker says one every kexecd.executor.PULSE. One pass over 5,000
processes on a slow machine may take several without an opportunity to speak."""

SELDOM = 0.1
"""Seconds between two words that say nothing new: each wakes the standby, and the processor is needed elsewhere."""

LAST_SILENCE = 150.0
"""The same once the walker has begun the irreversible act: the kernel first shuts every device down, and a disk
controller may take its time to write its cache."""

GiveBack = Callable[[tuple[int, ...]], None]
"""Undo these steps, by number, and tell whoever waits for it."""

TakeOver = Callable[[str], None]
"""Go down, from wherever the walker came to; the argument says what became of it. Does not come back."""


class Standby(Witness):
    """The walker's end. Its own death is noticed at the next word, and a new one is started."""

    def __init__(self, give_back: GiveBack, take_over: TakeOver, *, committed: bool) -> None:
        """committed: the walker goes on where another one was past the commit point."""
        self._give_back, self._take_over = give_back, take_over
        self._begun: list[int] = []
        self._committed = committed
        self._pid = 0
        self._said = 0.0  # when, by time.monotonic()
        self._channel = self._start()

    def begun(self, step: int) -> None:
        self._begun.append(step)
        self._say(b"b%d" % step)

    def committed(self) -> None:
        self._committed = True
        self._say(b"c")

    def alive(self) -> None:
        if time.monotonic() >= self._said + SELDOM:
            self._say(b"a")

    def last(self) -> None:
        """The irreversible act follows. From now on SIGTERM ends both of us: PID 1 sends it when it takes over."""
        self._say(b"l")

    def over(self) -> None:
        """The walk has ended in good order, and nothing is left to be done."""
        with contextlib.suppress(OSError):
            self._channel.send(b"o")
        self._channel.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _say(self, word: bytes) -> None:
        self._said = time.monotonic()
        try:
            self._channel.send(word, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass  # it has not read for a long time, and what it has not read tells it that we live
        except OSError:
            self._channel.close()
            self._channel = self._start()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        walker = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            try:
                self._watch(theirs, os.pidfd_open(walker))
            except BaseException:
                import traceback  # late: only for a bug

                with contextlib.suppress(BaseException):
                    self._take_over(f"the standby failed: {traceback.format_exc()}") if self._committed else None
            finally:
                os._exit(0)
        theirs.close()
        return ours

    def _watch(self, channel: socket.socket, walker: int) -> None:
        """In the standby: wait for the walker's end, whichever it is."""
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        patience = SILENCE
        while True:
            if self._committed and not poll.poll(int(patience * 1000)):
                end = f"the process that walked the plan has said nothing for {patience:g} s"
                break
            try:
                word = channel.recv(32)
            except ConnectionResetError:
                word = b""
            match word[:1]:
                case b"b":
                    self._begun.append(int(word[1:]))
                case b"c":
                    self._committed = True
                case b"l":
                    patience = LAST_SILENCE
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                case b"o":
                    return
                case b"":
                    end = "the process that walked the plan was killed"
                    break
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(walker, signal.SIGKILL)
        if self._committed:
            self._take_over(end)
        else:
            self._give_back(tuple(self._begun))
