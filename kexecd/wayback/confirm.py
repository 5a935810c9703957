# SPDX-License-Identifier: MIT
"""Waiting for a new boot to show that it is good, and giving it up if it does not within its limit.

It begins as early as Python can run and expects nothing of the boot: the record may lie on a filesystem that is not
mounted yet, the root may be read-only, PID 1 may hang. What it waits for is told by descriptors: the table of mounts,
what init says of its own start, signals; between them it sleeps. The limit counts from the kernel's start, so that it
holds however late this begins.

A boot without our nonce on its command line is none of its business, nor is one whose nonce no record knows.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from kexecd import handoff
from kexecd.handoff import How, PendingHandoff
from kexecd.kernel import sysfs
from kexecd.kernel.watchdog import LEAVING
from kexecd.model import NONCE_KEY
from kexecd.wayback import giveup, health
from kexecd.wayback.child import within
from kexecd.wayback.health import Wanted
from kexecd.wayback.usual import Reached, Usual
from kexecd.wayback.watchdog import Watch

LONGEST_SLEEP = 10.0
"""Seconds: what no descriptor tells is looked at this often, a watchdog's driver that is loaded late for one."""

PAUSES = (1.0, 2.0, 3.0, 5.0, 10.0)
"""Seconds between two rounds of health checks; the last one from then on."""

NOTING = 10.0
"""Seconds for a line of it to be written: a disk may hang, and somebody who has the lock with it."""

UNKNOWN = 300.0
"""Seconds that a boot gets to mount its record where the policy says nothing of a limit."""

MOUNTS = "/proc/self/mountinfo"


class End(StrEnum):
    """What became of the wait."""

    NOTHING = "nothing"  # there was nothing to confirm
    CONFIRMED = "confirmed"
    GIVEN_UP = "given up"
    STOPPED = "stopped"  # by whoever stops this service


@dataclass(frozen=True, slots=True)
class Outcome:
    end: End
    why: str  # a sentence without a full stop


class Deeds(Protocol):
    """What comes of it, as an object: in a test, nothing does."""

    def confirmed(self, pending: PendingHandoff, why: str) -> str:
        """Settle it. Returns what went wrong, as a sentence or nothing: then it is called again. Raises nothing."""

    def left(self, pending: PendingHandoff, *, leaving: bool) -> str:
        """The wait ends before its time. What there is to say of that; raises nothing.

        leaving: the machine goes down again; else somebody has stopped us, and that may be why.
        """

    def give_up(self, why: str) -> None:
        """Have the machine restarted through the firmware (kexecd.wayback.giveup). Returns when that is under way."""


@dataclass(slots=True)
class Wait:
    """One boot that is waited for.

    limit: seconds from the kernel's start, where the record says nothing else. stop: readable when we are to stop.
    watch: None where no watchdog is to be touched.
    """

    usual: Usual
    wanted: Wanted
    deeds: Deeds
    limit: float
    tell: Callable[[str], None]
    watch: Watch | None = None
    stop: int = -1
    state_dir: str = handoff.STATE_DIR
    root: str = "/"
    release: str = ""  # of the kernel that runs, unless it is this machine's
    now: Callable[[], float] = sysfs.uptime
    pending: PendingHandoff | None = field(default=None, init=False)
    _mounts: int = field(default=-1, init=False)
    _noted: bool = field(default=False, init=False)  # whether the record says that we have arrived
    _round: int = field(default=0, init=False)
    _unsaved: str = field(default="", init=False)  # why it could not be written down that it is good
    _renew: float = field(default=0.0, init=False)  # when the watchdogs are looked at again
    _guarded: float = field(default=0.0, init=False)  # for which end they have been set

    def run(self) -> Outcome:
        if not any(word.startswith(f"{NONCE_KEY}=") for word in sysfs.running_cmdline(self.root).split()):
            return Outcome(End.NOTHING, "this boot did not come by a kexec of ours")
        with contextlib.suppress(OSError):
            self._mounts = os.open(MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            outcome = self._wait()
        finally:
            self.usual.close()
            if self._mounts >= 0:
                os.close(self._mounts)
        if outcome.end is not End.GIVEN_UP and self.watch:
            for trouble in self.watch.give_back():
                self.tell(trouble)
        return outcome

    def _wait(self) -> Outcome:
        why, reached = "it has not come up", Reached(False, "")
        ask, at = True, 0.0  # whether to ask init again; when to make the next round of checks
        while True:
            if (over := self._look()) is not None:
                return over
            end = self._end
            if self.now() >= end and self._unsaved:
                self.tell(self._unsaved)
                return Outcome(End.CONFIRMED, "it is good, and nobody could write that down")
            if self.now() >= end:
                return self._give_up(f"it was not confirmed within {end:g} s: {why}")
            self._guard(end)
            reached = self.usual.reached() if ask else reached
            if reached.leaving:
                return self._left(reached.why, leaving=True)
            if not reached.far:
                why = reached.why
            elif self.pending is None:
                return Outcome(End.NOTHING, "no record of a restart knows the nonce of this boot")
            elif self.now() >= at:
                wrong = self._ask()
                if not wrong and (good := self._confirmed(reached.why)):
                    return good
                self._unsaved = "" if wrong else self._unsaved
                why = "; ".join(wrong) or self._unsaved or why
                at = self.now() + PAUSES[min(self._round, len(PAUSES) - 1)]
                self._round += 1
            woken = self._sleep(min(end, at) if reached.far else end)
            if self.stop in woken:
                return self._left(f"whoever stops services has stopped this one; {why}", leaving=False)
            ask = woken != {self._mounts}  # many of them, while a machine starts, and init is asked by a program

    @property
    def _end(self) -> float:
        """When the limit is over, in seconds from the kernel's start."""
        return self.pending.limit if self.pending else self.limit or UNKNOWN

    def _look(self) -> Outcome | None:
        """See what the record says by now; whether that ends it."""
        arrival = handoff.arrival(self.state_dir, root=self.root, release=self.release)
        if arrival.how is not How.KEXEC or arrival.pending is None:
            return None  # not there yet; or somebody has removed it, and what we know stays
        if self.pending is None:
            self.tell(f"this boot has to be found good within {arrival.pending.limit:g} s of its start")
        self.pending = arrival.pending
        if self.pending.settled:
            return Outcome(End.NOTHING, "somebody has said already what became of this restart")
        if not self._end:
            return Outcome(End.NOTHING, "nobody is to wait for this boot to be found good")
        if not self._noted:  # as long as its filesystem is read-only, another time
            self._noted = not within("the record", NOTING, self._note)
        if not arrival.as_planned:
            return self._give_up(f"Linux {arrival.release} came up, and {self.pending.to_version} was to")
        return None

    def _note(self) -> str:
        """Write down that we have arrived."""
        return "" if handoff.arrived(self.state_dir, root=self.root) else "it is not ours any more"

    def _ask(self) -> tuple[str, ...]:
        """A round of health checks: what is not good; it ends when somebody stops us."""
        # The clock of the limit is not the one that children are waited for with.
        left, stop = self._end - self.now(), frozenset((self.stop,)) if self.stop >= 0 else frozenset[int]()
        return health.ask(self.wanted, self.usual.active, seconds=left, heard=stop) if self.wanted else ()

    def _guard(self, end: float) -> None:
        """Have the watchdogs reset the machine a little after we would have given it up."""
        if self.watch is None:
            return
        now = self.now()
        if now >= self._renew or (self.watch.ours and end != self._guarded):
            again = self.watch.renew(end + LEAVING - now)
            self._guarded = end
            # Drivers come while a machine starts; a watchdog that cannot wait so long has to be told again and again.
            self._renew = now + again if again else end + LEAVING if self.watch.ours else now + LONGEST_SLEEP

    def _left(self, why: str, *, leaving: bool) -> Outcome:
        if self.pending and (said := self.deeds.left(self.pending, leaving=leaving)):
            self.tell(said)
        return Outcome(End.STOPPED, why)

    def _confirmed(self, why: str) -> Outcome | None:
        """None where it could not be written down: a disk may still become writable. A good boot is left alone."""
        if self.pending is None or self.now() >= self._end:
            return None
        good = f"{why}, and all health checks are good" if self.wanted else why
        self._unsaved = self.deeds.confirmed(self.pending, good)
        return None if self._unsaved else Outcome(End.CONFIRMED, good)

    def _give_up(self, why: str) -> Outcome:
        if self.watch:
            self.watch.renew(giveup.LAST + LEAVING)
        self.deeds.give_up(why)
        return Outcome(End.GIVEN_UP, why)

    def _sleep(self, until: float) -> set[int]:
        """Until something may have changed; the descriptors that say so."""
        poll = select.poll()
        if self.stop >= 0:
            poll.register(self.stop, select.POLLIN)
        if self._mounts >= 0 and not self._noted:
            poll.register(self._mounts, select.POLLPRI)  # proc_pid_mountinfo(5): a change of mounts is an exception
        for fd in self.usual.fds:
            poll.register(fd, select.POLLIN)
        until = min(until, self._renew) if self.watch else until
        seconds = max(0.0, min(until - self.now(), LONGEST_SLEEP))
        return {fd for fd, _ in poll.poll(int(seconds * 1000) + 1)}
