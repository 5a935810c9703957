# SPDX-License-Identifier: MIT
"""Doing for practice what a restart does, as far as that changes nothing.

What is done for the first time takes twice as long: pages are copied, parsers and tables are made, files are read from
a disk. So whoever will be asked for a restart does it once while nobody waits.
"""

from __future__ import annotations

import contextlib
import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kexecd.cli.draft import draw_up
from kexecd.executor import Executor, RealClock
from kexecd.model import Context, Phase, Running, Step, Way
from kexecd.record import loaded_record
from kexecd.report import clock
from kexecd.report.events import Sinks
from kexecd.teardown.announce import Announce
from kexecd.teardown.processes import Everyone
from kexecd.teardown.spare import Spare
from kexecd.teardown.verdict import Verify
from kexecd.wayback import begin
from kexecd.wayback.begin import Terms


def go_down(options: Namespace) -> None:
    """Draw up the plan of `reboot --fast`, and walk what only looks. Nothing where no image waits in memory: that would
    mount and read much. Raises what drawing up a plan raises."""
    if loaded_record() is None:
        return
    plan = draw_up(options).plan
    looks: tuple[Step, ...] = (Announce("nobody"), _LookForEveryone(), Verify())
    phases = tuple(Phase(step.name, number, "for practice", (step,)) for number, step in enumerate(looks))
    with _nowhere() as nobody:
        told = Sinks(text=(nobody,), lines=(nobody,), plain=(nobody,), within=plan.within)
        Executor(replace(plan, phases=phases, hurry=()), emit=told, clock=RealClock()).run()


def write_down() -> None:
    """Gather what is written down of a restart."""
    if image := loaded_record():
        begin.record(image, Way.FAST, Terms())
        clock.moment().as_json()


@dataclass(frozen=True, slots=True)
class _LookForEveryone:
    """One look at everybody who would be asked to quit."""

    name: str = "look"

    def describe(self) -> str:
        return "look who is there"

    def run(self, context: Context) -> Running:
        del context
        for fd, _ in Everyone(Spare.again())((), ()):
            os.close(fd)
        yield from ()

    def undo(self) -> None:
        """Nothing has happened."""


@contextlib.contextmanager
def _nowhere() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
