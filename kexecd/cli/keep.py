# SPDX-License-Identifier: MIT
"""Keeping what happens on the way down for the new boot's report, as late as the disk allows.

On our own way down that is a step beside the sync. Where PID 1 takes the machine down its services tell what they see:
that it has begun to stop the others, and that it is done with them.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass

from kexecd import handoff
from kexecd.cli.steps import in_child
from kexecd.errors import Refusal
from kexecd.kernel import sysfs
from kexecd.model import Context, Event, EventKind, Running, Way
from kexecd.record import RUN_DIR
from kexecd.report import down
from kexecd.report.down import PID_1
from kexecd.report.events import EVENTS_FILE, Sinks, open_quietly

PATIENCE = 2.0
"""Seconds to write a few kilobytes. A disk that takes longer is the sync's trouble, and a report is worth no more."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Whatever comes of it, the way down goes on."""

    way: Way
    name: str = "keep"

    def describe(self) -> str:
        return f"write down in {handoff.STATE_DIR} what has happened, for the new boot's report"

    def run(self, context: Context) -> Running:
        short = Context(context.now, min(context.deadline, context.now() + PATIENCE), context.tell)
        try:
            yield from in_child(functools.partial(_keep, self.way), short, by_clerk=True)
        except (OSError, Refusal) as error:
            why = error.why if isinstance(error, Refusal) else error
            context.tell(f"the new boot's report will have nothing of this way down: {why}, ignoring")

    def undo(self) -> None:
        """Nothing: the next way down writes over it."""


def _keep(way: Way) -> None:
    """May never return. Raises OSError."""
    if not os.path.isdir(handoff.STATE_DIR):
        return  # never made; or unmounted already, where somebody else walks the rest of a way down
    pending = handoff.expected(handoff.STATE_DIR)
    nonce = pending.nonce if pending and pending.from_boot_id == sysfs.boot_id() else ""
    down.keep(RUN_DIR, nonce, way, handoff.STATE_DIR)


class Chronicle:
    """What the services tell of PID 1's way down. None of it may fail: they are called on the way down."""

    def __init__(self, *, fresh: bool = False) -> None:
        """fresh: a way down begins here, and what is there is of another one."""
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if fresh else os.O_APPEND)
        self._sinks = Sinks(text=(), lines=open_quietly(os.path.join(RUN_DIR, EVENTS_FILE), flags))
        # What the services walk is a part of the way down: its plan is no other one, and its end not the verdict.
        self._passed_over = (EventKind.VERDICT,) if fresh else (EventKind.VERDICT, EventKind.PLAN)

    def __call__(self, event: Event) -> None:
        if event.kind not in self._passed_over:
            self._sinks(event)

    def stopping(self, init: str) -> None:
        """PID 1 stops what runs, from now on; the first to see it says so."""
        if not _is_stopping():
            text = f"{init} stops everything, in its own order"
            self(Event(EventKind.PHASE, sysfs.uptime(), PID_1, text=text))
        self.keep()

    def stopped(self, init: str) -> None:
        """PID 1 has stopped what ran, and nobody else writes."""
        from kexecd.init import ascent  # late: who begins a restart has no use for it

        now = sysfs.uptime()
        began = next((event.at for event in _of_pid_1()), now)
        for unit in ascent.stopped(init, began):
            self(Event(EventKind.QUIT, unit.end, PID_1, text=unit.name, seconds=unit.end - unit.begin))
        self(Event(EventKind.DONE, now, PID_1, seconds=now - began))

    def keep(self) -> None:
        """For the new boot; again, if something has come to it."""
        with contextlib.suppress(OSError):
            _keep(Way.ORDERLY)


def _is_stopping() -> bool:
    told = _of_pid_1()
    return bool(told) and told[-1].kind is EventKind.PHASE


def _of_pid_1() -> tuple[Event, ...]:
    with contextlib.suppress(OSError):
        return tuple(event for event in down.events(RUN_DIR) if event.phase == PID_1)
    return ()
