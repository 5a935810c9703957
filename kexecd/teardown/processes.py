# SPDX-License-Identifier: MIT
"""Quit what runs: TERM, a grace, KILL, each by pidfd; waiting is "a pidfd is readable", never a sleep.

In looks, because a process may fork while it is being asked: whoever is found is asked; when all of them have ended one
looks again; and it is over when a look finds nobody. Somebody who forks faster than that is stopped with everybody else
at once, by a signal that the kernel lets nobody fork away from, and killed while nothing moves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

from kexecd.kernel import pidfd, proc
from kexecd.kernel.urgency import urgent
from kexecd.model import Context, Process, Running, Wait
from kexecd.teardown import leftover
from kexecd.teardown.leftover import names
from kexecd.teardown.spare import Spare
from kexecd.teardown.watched import Watched

KILL_RESERVE = 0.5
"""Seconds kept back from every grace, so that KILL and its effect fit inside the deadline too."""

MOST_ASKED_AGAIN = 8
"""Looks that find newcomers, until those that are left are killed: somebody is started again, or forks without end."""

STOP_AFTER = 3
"""The same once they are killed, until everybody is stopped first."""

GIVE_UP_AFTER = 8
"""The same until they are left: it is PID 1 that starts them again, or somebody who is spared."""

ASLEEP = 2.0
"""Seconds after KILL, until those who do nothing but sleep in the kernel are left there: the disk or the server that
they wait for does not answer."""

FIRST_PAUSE = 0.05
"""Seconds from one look to the next while somebody does not die; doubled each time."""

SLOWEST = 8
"""Of a step's processes, how many are told by name with the time that they took."""

SLOW = 0.05
"""Seconds from which on that is worth telling."""

Held = tuple[int, Process]
"""A pidfd, and the process behind it."""


class Find(Protocol):
    """Who is to be quit. fleeting: how many strangers were gone before they could be held, in the last look."""

    @property
    def fleeting(self) -> int: ...

    def __call__(self, held: Collection[int], known: Collection[int]) -> Iterator[Held]:
        """A look: all but those with the pids `held`. The pidfds belong to the caller. known: who is no stranger."""
        ...

    def stop(self) -> None:
        """Stop whoever could still fork."""
        ...


class Everyone:
    """All but the spared, and but those who go later."""

    def __init__(self, spare: Spare, later: Collection[int] = ()) -> None:
        self._spare, self._later = spare, later
        self._spared: set[int] = set()
        # A zombie that nobody waits for is none of our business, but one that was not there before may have forked.
        self._gone: set[int] = set()
        self.fleeting = 0

    def __call__(self, held: Collection[int], known: Collection[int]) -> Iterator[Held]:
        self._spare = spare = self._spare.renewed()
        self.fleeting, gone = 0, set()
        passed_over = {*held, *self._later, *proc.kernel_threads(), *spare.pids}
        for pid in proc.pids():
            if pid in passed_over:
                continue
            if (fd := pidfd.open(pid)) is None:
                self.fleeting += pid not in known
                continue
            process = proc.read(pid)
            if process is not None and not spare(process):
                yield fd, process
                continue
            os.close(fd)
            if process is None:
                gone.add(pid)
                self.fleeting += pid not in known and pid not in self._gone
            elif not process.kernel_thread:
                self._spared.add(pid)
        self._gone = gone

    def stop(self) -> None:
        """Everybody but the spared, who go on at once: one of them may be what our own next page comes from."""
        everybody = (self._spared | self._spare.pids) - {1, os.getpid()}
        spared = [fd for pid in everybody if (fd := pidfd.open(pid)) is not None]
        let_go_on = pidfd.sender(signal.SIGCONT)
        try:
            pidfd.stop_everyone()
        finally:
            for fd in spared:
                let_go_on(fd)
                os.close(fd)


@dataclass(frozen=True)
class QuitProcesses:
    """TERM to whoever has not been asked yet, KILL to whoever is still there after the grace."""

    grace: float  # seconds
    preview: tuple[Process, ...] = ()  # who it would be now, for describe()
    later: frozenset[int] = frozenset()  # pids of those who are left to a later step
    name: str = "processes"

    def describe(self) -> str:
        return f"ask every other process to quit, kill what is left after {self.grace:g} s ({names(self.preview)})"

    def run(self, context: Context) -> Running:
        yield from quit_found(context, Everyone(Spare.again(), self.later), self.grace)

    def undo(self) -> None:
        """Nothing: a TERM cannot be unsent, which is why it only runs after the commit point."""


def _may_end(process: Process) -> bool:
    """Whether a process that was killed is not just asleep in the kernel, where no signal reaches it."""
    now = proc.read(process.pid)
    return now is not None and now.start == process.start and now.state != "D"


def quit_found(
    context: Context,
    find: Find,
    grace: float,
    signal_for: Callable[[Process], int] = lambda process: signal.SIGTERM,
    *,
    first: bool = True,
) -> Running:
    """Quit everybody whom `find` finds. `signal_for` says how one of them is asked; with 0 it is not.

    first: ahead of every ordinary process.
    """
    ahead = urgent() if first else contextlib.nullcontext()
    with ahead, contextlib.closing(_Quitting(context, find, signal_for)) as quitting:
        end = max(context.now(), context.deadline - KILL_RESERVE)
        if (yield from quitting.ask(min(context.now() + grace, end))):
            yield from quitting.kill(grace)
        quitting.tell_slowest()


class _Quitting:
    """One step at work. `known`: who got the signal of this stage already, start by pid."""

    def __init__(self, context: Context, find: Find, signal_for: Callable[[Process], int]) -> None:
        self._context, self._find, self._signal_for = context, find, signal_for
        self._watched = Watched(proc.count_threads())
        self._known: dict[int, int] = {}
        self._since: dict[int, float] = {}  # by pid, when it was found first
        self._slowest: list[tuple[float, float, Process]] = []  # seconds, when it had ended, who
        self._senders: dict[int, Callable[[int], bool]] = {}

    def close(self) -> None:
        self._watched.close()

    def ask(self, until: float) -> Generator[Wait, frozenset[int], bool]:
        """Ask everybody, until nobody is left or the clock is at `until`; returns whether somebody is."""
        looks = 0
        while True:
            found, fresh = self._look(self._ask)
            if not (found or self._watched or self._find.fleeting):
                return False
            looks += bool(fresh or self._find.fleeting)
            if looks > MOST_ASKED_AGAIN:
                return True
            yield from self._until_ended(until)
            if self._watched or self._context.now() >= until:
                return True

    def kill(self, grace: float) -> Running:
        """KILL to everybody, until nobody is left or the phase is over; tells who was killed and who is left."""
        self._known.clear()
        if self._watched:
            self._context.tell(f"killing {names(self._watched.processes)}: still running after {grace:g} s")
        for fd, process in self._watched.items():
            self._kill(fd, process)
        end = max(self._context.deadline, self._context.now() + KILL_RESERVE)  # to die takes a moment, too
        looks, pause, stopped, asleep = 0, FIRST_PAUSE, False, self._context.now()
        while True:
            found, fresh = self._look(self._kill)
            if not (found or self._watched or self._find.fleeting):
                return
            if self._context.now() >= end:
                break
            looks += bool(fresh or self._find.fleeting)
            if looks >= GIVE_UP_AFTER:
                yield from self._until_ended(min(end, self._context.now() + KILL_RESERVE))
                break
            if looks >= STOP_AFTER and not stopped:
                self._context.tell("somebody is started as fast as it is killed: stopping everybody first")
                self._find.stop()
                stopped = True
                continue
            yield from self._until_ended(min(end, self._context.now() + pause))
            pause = 2 * pause if self._watched else FIRST_PAUSE
            if any(_may_end(process) for process in self._watched.processes):
                asleep = self._context.now()
            elif self._watched and self._context.now() >= asleep + ASLEEP:
                break
        for line in leftover.lines(self._watched.processes):
            self._context.tell(line)
        self._context.left.update((process.pid, process.start) for process in self._watched.processes)

    def _look(self, treat: Callable[[int, Process], bool]) -> tuple[int, int]:
        """Find who is there, and treat each once; returns how many there are, and how many of them are new."""
        found = fresh = 0
        try:
            for fd, process in self._find(self._watched.pids, self._known):
                if (process.pid, process.start) in self._context.left:
                    os.close(fd)
                    continue
                found += 1
                self._since.setdefault(process.pid, self._context.now())
                if self._known.get(process.pid) != process.start:
                    fresh += treat(fd, process)
                self._watched.hold(fd, process)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._watched.halve()
            found += 1  # whoever was not come to
        return found, fresh

    def _ask(self, fd: int, process: Process) -> bool:
        key = process.pid, process.start
        self._known[process.pid] = process.start
        if key in self._context.asked:  # by PID 1, and its grace is used up
            self._send(signal.SIGKILL, fd)
            return False
        number = self._signal_for(process)
        if number and self._send(number, fd):
            self._context.asked.add(key)
            if process.state == "T":  # a stopped one acts on it only once it goes on
                self._send(signal.SIGCONT, fd)
        return True

    def _kill(self, fd: int, process: Process) -> bool:
        self._known[process.pid] = process.start
        self._send(signal.SIGKILL, fd)
        return True

    def _send(self, number: int, fd: int) -> bool:
        send = self._senders.get(number)
        if send is None:
            send = self._senders[number] = pidfd.sender(number)
        return send(fd)

    def _until_ended(self, until: float) -> Running:
        while self._watched and self._context.now() < until:
            yield self._watched.wait(until)
            self._note(self._watched.drop_ended())

    def _note(self, ended: Collection[Process]) -> None:
        now = self._context.now()
        slow = [(now - self._since[process.pid], now, process) for process in ended]
        self._slowest += [row for row in slow if row[0] >= SLOW]
        self._slowest = sorted(self._slowest, key=lambda row: row[0])[-SLOWEST:]

    def tell_slowest(self) -> None:
        """Slowest first; those that are left behind have not ended."""
        for seconds, at, process in reversed(self._slowest):
            self._context.quit(leftover.who(process), at, seconds)
