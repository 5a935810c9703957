# SPDX-License-Identifier: MIT
"""Loop.child(), by a thread: for what is on the way to the jump and spends its time in the kernel.

A copy of the holder costs more than all that live update does with a gigabyte: an emulated machine takes 0.1 s for the
copying alone. A thread costs nothing, but nobody can kill it: what it does has to come to an end by itself when it has
been given up, and must touch nothing that the holder may have closed by then. What it does last of all, where others
can see it, is a LastAct: there it is settled whether it still counts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import weakref
from collections.abc import Callable, Iterator

from kexecd.loop import Ended, Loop

MOST = 1 << 16  # bytes of an answer: what a pipe takes at once


class LastAct:
    """What one thread at a time does last, unless it was given up before; and whether anybody is at it.

    An eventfd of 1, and of 0 while somebody is: unlike a lock of this process, a child can wait for that one, which
    the loop must not. A child that is forked when a thread has been given up waits for it once, and never again.
    """

    def __init__(self) -> None:
        self._free = os.eventfd(1, os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._free).atexit = False

    @contextlib.contextmanager
    def turn(self, go_on: Callable[[], bool]) -> Iterator[None]:
        """To do it in. Raises OSError, ECANCELED, once go_on() says no."""
        os.eventfd_read(self._free)
        try:
            if not go_on():
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            yield
        finally:
            os.eventfd_write(self._free, 1)

    def is_over(self, seconds: float) -> bool:
        """Whether nobody is at it within so many seconds."""
        poll = select.poll()
        poll.register(self._free, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def thread(loop: Loop, work: Callable[[int], int], done: Callable[[Ended], None], *, seconds: float) -> None:
    """Call work(writer) in a thread, and done() in the loop with the one thing that it writes; late after `seconds`.

    Raises OSError where there is no thread to be had.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def run() -> None:
        try:
            with contextlib.suppress(BrokenPipeError):  # it has been given up
                work(writer)
        finally:
            os.close(writer)

    def end(ended: Ended) -> None:
        timer.cancel()
        loop.forget(reader)
        os.close(reader)
        done(ended)

    def read() -> None:
        output = os.read(reader, MOST)
        end(Ended(0 if output else 1, output))

    timer = loop.after(seconds, lambda: end(Ended(1, b"", late=True)))
    loop.watch(reader, read)
    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as error:
        timer.cancel()
        loop.forget(reader)
        os.close(reader)
        os.close(writer)
        raise OSError(errno.EAGAIN, str(error)) from error
