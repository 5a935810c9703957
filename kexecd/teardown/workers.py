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

from kexecd.kernel import block, dm, md, syscalls
from kexecd.model import Wait
from kexecd.teardown import holders

ENDED = -1
"""The errno of a call whose worker died or was killed: nobody knows how far it came."""

MESSAGE = 1 << 17
"""Bytes of a request or an answer at most; a socket takes 208 KiB (net.core.wmem_default)."""


def _umount_fuse(point: str, connection: str) -> None:
    del connection  # what _abort_fuse has to know, also when the mount is not to be seen any more
    syscalls.umount(point)


def _umount_forced(point: str) -> None:
    syscalls.umount(point, syscalls.MNT_FORCE | syscalls.UMOUNT_NOFOLLOW)


def _umount_lazily(point: str) -> None:
    syscalls.umount(point, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)


def _umount_in(door: str, *points: str) -> None:
    """Unmount in another mount namespace, as many as will go; raises the first OSError."""
    syscalls.enter_mounts(door)
    failed: OSError | None = None
    for point in points:
        try:
            syscalls.umount(point)
        except OSError as error:
            failed = failed or error
    if failed:
        raise failed


def _remount_in(door: str, point: str) -> None:
    syscalls.enter_mounts(door)
    syscalls.remount_read_only(point)


def _abort_fuse(connection: str) -> None:
    """Let every request to a FUSE daemon fail, those under way too (Documentation/filesystems/fuse)."""
    fd = os.open(f"/sys/fs/fuse/connections/{connection}/abort", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"1")
    finally:
        os.close(fd)


def _syncfs(point: str) -> None:
    fd = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


def _find_holders(*words: str) -> str:
    """Words in pairs: path, device number."""
    places = map(holders.Place, words[::2], words[1::2])
    return holders.encode(holders.find(places, but_children_of=os.getppid()))


# The umounts differ in what is tried next, and in how long it may take (kexecd.teardown.filesystems).
OPERATIONS: dict[str, Callable[..., str | None]] = {
    "umount": syscalls.umount,  # of what is on a disk
    "umount-beyond": syscalls.umount,  # of what is reached through a server or a daemon
    "umount-network": syscalls.umount,
    "umount-fuse": _umount_fuse,
    "umount-memory": syscalls.umount,
    "umount-again": syscalls.umount,
    "umount-force": _umount_forced,
    "umount-lazy": _umount_lazily,
    "umount-in": _umount_in,
    "fuse-abort": _abort_fuse,
    "remount-ro": syscalls.remount_read_only,
    "remount-ro-in": _remount_in,
    "sync": os.sync,
    "syncfs": _syncfs,
    "swapoff": syscalls.swapoff,
    "loop-detach": block.detach,
    "dm-remove": dm.remove,
    "md-stop": md.stop,
    "md-settle": md.wait_clean,
    "holders": _find_holders,
    "sleep": signal.pause,  # never returns: what the tests need to prove that this does not matter
}

VERBS = {
    "fuse-abort": "abort FUSE connection",
    "umount-lazy": "detach",
    "remount-ro": "remount read-only",
    "remount-ro-in": "remount read-only",
    "sync": "write back everything",
    "syncfs": "write back",
    "swapoff": "stop swapping to",
    "loop-detach": "detach",
    "dm-remove": "close",
    "md-stop": "stop",
    "md-settle": "settle",
    "holders": "find who holds",
}

ONCE = frozenset(("umount-in", "remount-ro-in"))
"""Calls after which a worker is in another mount namespace, and of no more use."""


@dataclass(frozen=True, slots=True)
class Call:
    operation: str
    arguments: tuple[str, ...] = ()
    tag: int = 0  # the submitter's own, to know it again

    def __str__(self) -> str:
        """In words: "unmount /data"."""
        return f"{VERBS.get(self.operation, 'unmount')} {self.subject}".rstrip()

    @property
    def subject(self) -> str:
        """The path of what it is about."""
        if self.operation == "dm-remove":
            return f"/dev/mapper/{self.arguments[0]}"
        return next(iter(self.arguments[1:] if self.operation in ONCE else self.arguments), "")


@dataclass(frozen=True, slots=True)
class Outcome:
    call: Call
    errno: int  # 0: done
    seconds: float
    text: str = ""  # what the call found, where it looks for something

    @property
    def why(self) -> str:
        return "it did not return" if self.errno == ENDED else os.strerror(self.errno).lower()


@dataclass(slots=True)
class _Worker:
    pid: int
    channel: socket.socket
    call: Call
    since: float
    patience: float


_abandoned: dict[int, Call | None] = {}  # None: it ends by itself, and only has to be collected


_resting: list[_Worker] | None = None
"""Those that have nothing to do between two steps; None where none is kept."""


def keep_workers() -> None:
    """From now on who has nothing more to do in one step is there for the next, to the end of this process: to start
    and to end them for each takes the time of many calls."""
    global _resting  # noqa: PLW0603
    _resting = [] if _resting is None else _resting


def hire_ahead(count: int) -> None:
    """Have so many there before they are needed, where they are kept: while others are waited for it costs nothing."""
    while _resting is not None and len(_resting) < count:
        _resting.append(_start())


def left_behind() -> tuple[Call, ...]:
    """The calls that were given up and that the kernel has not ended to this moment, in all of this process."""
    for pid in tuple(_abandoned):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0]
        except ChildProcessError:
            ended = pid
        if ended:
            del _abandoned[pid]
    return tuple(call for call in _abandoned.values() if call)


class Workers:
    """At most `count` calls at a time, each at most `patience` seconds or what `patiences` says of its operation."""

    def __init__(
        self, count: int, *, patience: float, now: Callable[[], float], patiences: dict[str, float] | None = None
    ) -> None:
        self._count, self._patience, self._now, self._patiences = count, patience, now, patiences or {}
        self._idle: list[_Worker] = []
        self._busy: dict[int, _Worker] = {}
        self._queue: deque[Call] = deque()

    @property
    def busy(self) -> bool:
        return bool(self._busy or self._queue)

    @property
    def under_way(self) -> tuple[Call, ...]:
        return (*(worker.call for worker in self._busy.values()), *self._queue)

    def submit(self, call: Call) -> None:
        self._queue.append(call)
        self._feed()

    def wait(self, until: float) -> Wait:
        """What a step has to yield to be woken when a worker answers or has used up its patience."""
        ends = [worker.since + worker.patience for worker in self._busy.values()]
        return Wait(frozenset(self._busy), min([until, *ends]))

    def collect(self, readable: Iterable[int]) -> list[Outcome]:
        """The calls that ended, those that were given up among them."""
        outcomes = [self._finish(fd) for fd in readable if fd in self._busy]
        late = [fd for fd, worker in self._busy.items() if self._now() >= worker.since + worker.patience]
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
        if _resting is not None:
            _resting.extend(self._idle)
            self._idle.clear()
            return
        for worker in self._idle:
            worker.channel.close()  # an idle worker ends when its channel does
        for worker in self._idle:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)
        self._idle.clear()

    def _feed(self) -> None:
        while self._queue and len(self._busy) < self._count:
            call = self._queue.popleft()
            worker = self._hire(json.dumps([call.operation, *call.arguments]).encode())
            worker.call, worker.since = call, self._now()
            worker.patience = self._patiences.get(call.operation, self._patience)
            self._busy[worker.channel.fileno()] = worker

    def _hire(self, request: bytes) -> _Worker:
        """Somebody who has this request."""
        while free := self._idle or _resting:
            worker = free.pop()
            try:
                worker.channel.send(request)
            except OSError:  # it was killed while it had nothing to do
                worker.channel.close()
                _abandoned[worker.pid] = None
            else:
                return worker
        worker = _start()
        with contextlib.suppress(OSError):  # shows as its end when it is collected
            worker.channel.send(request)
        return worker

    def _finish(self, fd: int) -> Outcome:
        worker = self._busy[fd]
        try:
            answer = worker.channel.recv(MESSAGE)
        except ConnectionResetError:
            answer = b""
        if not answer:
            return self._abandon(fd)
        del self._busy[fd]
        if worker.call.operation in ONCE:
            worker.channel.close()
            _abandoned[worker.pid] = None
        else:
            self._idle.append(worker)
        number, _, text = answer.partition(b" ")
        return Outcome(worker.call, int(number), self._now() - worker.since, text.decode())

    def _abandon(self, fd: int) -> Outcome:
        worker = self._busy.pop(fd)
        os.kill(worker.pid, signal.SIGKILL)  # our own child, not yet waited for: the number is still its own
        _abandoned[worker.pid] = worker.call
        worker.channel.close()
        return Outcome(worker.call, ENDED, self._now() - worker.since)


def _start() -> _Worker:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            # Also our ends of the other workers' channels: while a copy is open here, closing it there ends nobody.
            os.closerange(3, theirs.fileno())
            os.closerange(theirs.fileno() + 1, 1 << 20)
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return _Worker(pid, ours, Call(""), 0.0, 0.0)


def _serve(channel: socket.socket) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its channel
    while request := channel.recv(MESSAGE):
        operation, *arguments = json.loads(request)
        code, text = 0, ""
        try:
            text = OPERATIONS[operation](*arguments) or ""
        except OSError as error:
            code = error.errno or ENDED
        channel.send(f"{code} {text[: MESSAGE - 16]}".encode())
        if operation in ONCE:
            return
