# SPDX-License-Identifier: MIT
"""Loop.child(), by a thread: for what is on the way to the jump and spends its time in the kernel.

A copy of the holder costs more than all that live update does with a gigabyte: an emulated machine takes 0.1 s for the
copying alone. A thread costs nothing, but nobody can kill it: what it does has to come to an end by itself when it has
been given up, and must touch nothing that the holder may have closed by then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable

from kexecd.loop import Ended, Loop

MOST = 1 << 16  # bytes of an answer: what a pipe takes at once


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
