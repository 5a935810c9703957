# SPDX-License-Identifier: MIT
"""Child processes for the system calls that may never return.

umount(2) of a dead NFS server, sync(2) to a dying disk, remount of a stuck FUSE: in our own process any of them would
be the end of the way down. A worker takes one call at a time; one that does not answer is killed (which may not help
while it sleeps in the kernel), left behind, and replaced. Processes and not threads: a thread in a system call keeps
its whole process from ending. Forked once and reused, because a fork for each of 4,000 mounts is too slow.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from kexecd.kernel import block, syscalls
from kexecd.model import Wait

ENDED = -1
"""The errno of a call whose worker died or was killed: nobody knows how far it came."""


OPERATIONS: dict[str, Callable[..., None]] = {
    "umount": syscalls.umount,
    "remount-ro": syscalls.remount_read_only,
    "sync": os.sync,
    "swapoff": syscalls.swapoff,
    "loop-detach": block.detach,
    "sleep": signal.pause,  # never returns: what the tests need to prove that this does not matter
}


@dataclass(frozen=True, slots=True)
class Call:
    operation: str
    arguments: tuple[str, ...] = ()
    tag: int = 0  # the submitter's own, to know it again


@dataclass(frozen=True, slots=True)
class Outcome:
    call: Call
    errno: int  # 0: done
    seconds: float

    @property
    def why(self) -> str:
        return "it did not return" if self.errno == ENDED else os.strerror(self.errno).lower()


@dataclass(slots=True)
class _Worker:
    pid: int
    channel: socket.socket
    call: Call
    since: float


class Workers:
    """At most `count` calls at a time, each at most `patience` seconds."""

    def __init__(self, count: int, *, patience: float, now: Callable[[], float]) -> None:
        self._count, self._patience, self._now = count, patience, now
        self._idle: list[_Worker] = []
        self._busy: dict[int, _Worker] = {}
        self._queue: deque[Call] = deque()

    @property
    def busy(self) -> bool:
        return bool(self._busy or self._queue)

    def submit(self, call: Call) -> None:
        self._queue.append(call)
        self._feed()

    def wait(self, until: float) -> Wait:
        """What a step has to yield to be woken when a worker answers or has used up its patience."""
        ends = [worker.since + self._patience for worker in self._busy.values()]
        return Wait(frozenset(self._busy), min([until, *ends]))

    def collect(self, readable: Iterable[int]) -> list[Outcome]:
        """The calls that ended, those that were given up among them."""
        outcomes = [self._finish(fd) for fd in readable if fd in self._busy]
        late = [fd for fd, worker in self._busy.items() if self._now() >= worker.since + self._patience]
        outcomes += [self._abandon(fd) for fd in late]
        self._feed()
        return outcomes

    def run(self, calls: Iterable[Call], until: float) -> Generator[Wait, frozenset[int], list[Outcome]]:
        """All of `calls`, in no order; those not done at `until` are given up."""
        outcomes: list[Outcome] = []
        for call in calls:
            self.submit(call)
        while self.busy and self._now() < until:
            outcomes += self.collect((yield self.wait(until)))
        return outcomes + self.give_up()

    def give_up(self) -> list[Outcome]:
        """Abandon what is under way and what is waiting."""
        outcomes = [self._abandon(fd) for fd in list(self._busy)]
        outcomes += [Outcome(call, ENDED, 0.0) for call in self._queue]
        self._queue.clear()
        return outcomes

    def close(self) -> None:
        self.give_up()
        for worker in self._idle:
            worker.channel.close()  # an idle worker ends when its channel does
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)
        self._idle.clear()

    def _feed(self) -> None:
        while self._queue and len(self._busy) < self._count:
            worker = self._idle.pop() if self._idle else _start()
            worker.call, worker.since = self._queue.popleft(), self._now()
            self._busy[worker.channel.fileno()] = worker
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # shows as its end when it is collected
                worker.channel.send(json.dumps([worker.call.operation, *worker.call.arguments]).encode())

    def _finish(self, fd: int) -> Outcome:
        worker = self._busy[fd]
        try:
            answer = worker.channel.recv(64)
        except ConnectionResetError:
            answer = b""
        if not answer:
            return self._abandon(fd)
        del self._busy[fd]
        self._idle.append(worker)
        return Outcome(worker.call, int(answer), self._now() - worker.since)

    def _abandon(self, fd: int) -> Outcome:
        worker = self._busy.pop(fd)
        os.kill(worker.pid, signal.SIGKILL)  # our own child, not yet waited for: the number is still its own
        with contextlib.suppress(ChildProcessError):
            os.waitpid(worker.pid, os.WNOHANG)
        worker.channel.close()
        return Outcome(worker.call, ENDED, self._now() - worker.since)


def _start() -> _Worker:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            # Also our ends of the other workers' channels: while a copy is open here, closing it there ends nobody.
            os.closerange(3, theirs.fileno())
            os.closerange(theirs.fileno() + 1, 4096)
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return _Worker(pid, ours, Call(""), 0.0)


def _serve(channel: socket.socket) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its channel
    while request := channel.recv(1 << 16):
        operation, *arguments = json.loads(request)
        try:
            OPERATIONS[operation](*arguments)
            answer = 0
        except OSError as error:
            answer = error.errno or ENDED
        channel.send(str(answer).encode())
