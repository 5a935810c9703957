# SPDX-License-Identifier: MIT
"""Processes held by pidfd until they have ended."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable

from kexecd.kernel import descriptors
from kexecd.model import Process, Wait

FEW = 32
"""Processes down to which each end is waited for: those are the slow ones, of which a report says how slow."""


class Watched:
    """As many as there are file descriptors for; whoever finds no room is found again when there is some.

    Of many one is waited for, the last: when that has ended most of the others have as well, so that thousands who quit
    make a handful of wake-ups. Which ones have ended one epoll then says at a time.
    """

    def __init__(self, count: int) -> None:
        """count: how many are expected."""
        self._room = descriptors.room_for(count)
        self._held: dict[int, Process] = {}
        self._ended = select.epoll()

    def __len__(self) -> int:
        return len(self._held)

    def items(self) -> tuple[tuple[int, Process], ...]:
        return tuple(self._held.items())

    @property
    def processes(self) -> tuple[Process, ...]:
        return tuple(self._held.values())

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(process.pid for process in self._held.values())

    def hold(self, fd: int, process: Process) -> None:
        """Take a pidfd over; where there is no room it is closed."""
        if len(self._held) >= self._room:
            os.close(fd)
            return
        self._held[fd] = process
        # ONESHOT: a child of ours may have inherited the pidfd, and then closing it here takes it out of no epoll.
        self._ended.register(fd, select.EPOLLIN | select.EPOLLONESHOT)

    def halve(self) -> None:
        """Make do with less: somebody else has used up the descriptors."""
        self._room = max(1, len(self._held) // 2)
        self._close(tuple(self._held)[self._room :])

    def wait(self, until: float) -> Wait:
        """What a step has to yield to be woken when the last of many has ended, or one of a few."""
        fd = next(reversed(self._held)) if len(self._held) > FEW else self._ended.fileno()
        return Wait(frozenset((fd,)), until)

    def drop_ended(self) -> list[Process]:
        """Let go of those that have ended; returns them."""
        ended = []
        while batch := self._ended.poll(0, max(1, len(self._held))):
            gone = [fd for fd, _ in batch if fd in self._held]
            ended += [self._held[fd] for fd in gone]
            self._close(gone)
        return ended

    def close(self) -> None:
        self._close(tuple(self._held))
        self._ended.close()

    def _close(self, fds: Iterable[int]) -> None:
        for fd in fds:
            del self._held[fd]
            os.close(fd)
