# SPDX-License-Identifier: MIT
"""Numbered work, so many at a time, in processes that are forked from this one and stay until all is done.

A process each and no threads: QEMU ends with the thread that has started it (tests/vm/lab/machine.py). Numbers, since
what has to be done holds functions that cannot be sent; a forked process knows all of it already.

An interrupt, an error or the end of this process, even by SIGKILL, ends them with TERM, at which they leave as at an
interrupt: their guests are stopped and their directories removed. The signal at a parent's end: prctl(2),
PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import NoReturn, TypeVar

from tests.vm.lab.errors import LabError

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h

LEAVING = 60.0
"""Seconds for a worker to stop its guest, or what builds one, before it is killed."""

Done = TypeVar("Done")

FORK = multiprocessing.get_context("fork")


def each(do: Callable[[int], Done], numbers: Iterable[int], at_a_time: int) -> Iterator[tuple[int, Done]]:
    """What `do` returns, with its number, as it ends; they begin in the order that is given.

    LabError when a worker ends without an answer: it has said why.
    """
    todo = deque(numbers)
    crew: list[ForkProcess] = []
    busy: dict[Connection, int] = {}
    try:
        for _ in range(min(at_a_time, len(todo))):
            ours, theirs = FORK.Pipe()
            worker = FORK.Process(target=_work, args=(do, theirs, os.getpid()), daemon=True)
            worker.start()
            crew.append(worker)
            theirs.close()
            _give(ours, todo, busy)
        while busy:
            for link in wait(list(busy)):
                assert isinstance(link, Connection)
                number = busy.pop(link)
                try:
                    done = link.recv()
                except (EOFError, ConnectionResetError):
                    raise LabError(f"whoever was at number {number} has ended without an answer") from None
                if todo:
                    _give(link, todo, busy)
                yield number, done
    finally:
        for worker in crew:
            worker.terminate()
        for worker in crew:
            worker.join(LEAVING)
            worker.kill()


def _give(link: Connection, todo: deque[int], busy: dict[Connection, int]) -> None:
    busy[link] = todo.popleft()
    link.send(busy[link])


def _work(do: Callable[[int], object], link: Connection, parent: int) -> NoReturn:
    # An interrupt at the terminal reaches everybody there, and the parent's TERM would come into the midst of what is
    # done about it. No SIG_IGN: it would be handed down to every tool.
    signal.signal(signal.SIGINT, _nothing)
    signal.signal(signal.SIGTERM, _leave)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(1)  # it has ended before that was asked for
    while True:
        link.send(do(link.recv()))


def _leave(number: int, frame: object) -> NoReturn:
    del frame
    signal.signal(signal.SIGTERM, _nothing)
    raise SystemExit(128 + number)


def _nothing(number: int, frame: object) -> None:
    """Once is enough."""
