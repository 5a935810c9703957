# SPDX-License-Identifier: MIT
"""Doing for practice what a restart does, as far as that changes nothing: a child of ours is quit instead of everybody,
and what is written down goes where nobody reads it.

What is done for the first time takes twice as long: pages are copied, parsers and tables are made, files are read from
a disk. So whoever will be asked for a restart does it once while nobody waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
from argparse import Namespace
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from kexecd.cli.draft import draw_up
from kexecd.executor import Executor, RealClock
from kexecd.handoff import PENDING
from kexecd.kernel import pidfd, proc
from kexecd.model import Context, Phase, Running, Step, Way
from kexecd.record import RUN_DIR, loaded_record
from kexecd.report import down
from kexecd.report.events import Sinks
from kexecd.teardown.announce import Announce
from kexecd.teardown.processes import Everyone, Held, quit_found
from kexecd.teardown.spare import Spare
from kexecd.teardown.verdict import Verify
from kexecd.wayback import begin
from kexecd.wayback.begin import Terms

SCRATCH = "practice"
"""In the run directory, while something is written down for practice."""

GRACE = 1.0
"""Seconds for the volunteer to quit."""


def go_down(options: Namespace) -> None:
    """Draw up the plan of `reboot --fast`, and walk what only looks. Nothing where no image waits in memory: that would
    mount and read much. Raises what drawing up a plan raises."""
    if loaded_record() is None:
        return
    plan = draw_up(options).plan
    steps: tuple[Step, ...] = (Announce("nobody"), _QuitVolunteer(), Verify())
    phases = tuple(Phase(step.name, number, "for practice", (step,)) for number, step in enumerate(steps))
    with _nowhere() as nobody:
        told = Sinks(text=(nobody,), lines=(nobody,), plain=(nobody,), within=plan.within)
        Executor(replace(plan, phases=phases, hurry=()), emit=told, clock=RealClock()).run()


def write_down(run_dir: str = RUN_DIR) -> None:
    """Write down what is written down of a restart, and take it away again. Raises OSError."""
    if image := loaded_record():
        scratch = os.path.join(run_dir, SCRATCH)
        try:
            begin.write(begin.record(image, Way.FAST, Terms()), scratch)
            down.keep(run_dir, image.nonce, Way.FAST, scratch)
        finally:
            for name in (PENDING, down.DOWN):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(scratch, name))
            os.rmdir(scratch)


@dataclass(frozen=True, slots=True)
class _QuitVolunteer:
    """Look for everybody who would be asked to quit, and ask only a child of ours, which is there for that."""

    name: str = "quit"

    def describe(self) -> str:
        return "ask a volunteer to quit"

    def run(self, context: Context) -> Running:
        volunteer = _volunteer()
        try:
            yield from quit_found(context, _Only(volunteer), GRACE)
        finally:
            os.kill(volunteer, signal.SIGKILL)  # our own child, not yet waited for: the number is still its own
            os.waitpid(volunteer, 0)

    def undo(self) -> None:
        """Nothing has happened."""


class _Only:
    """A look at everybody, which finds but one."""

    fleeting = 0

    def __init__(self, pid: int) -> None:
        self._pid, self._everyone = pid, Everyone(Spare.again())

    def __call__(self, held: Collection[int], known: Collection[int]) -> Iterator[Held]:
        for stranger, _ in self._everyone(held, known):
            os.close(stranger)
        if self._pid not in held and (process := proc.read(self._pid)) and (fd := pidfd.open(self._pid)) is not None:
            yield fd, process

    def stop(self) -> None:
        """Nobody forks here."""


def _volunteer() -> int:
    """A child that does nothing, and not for ever: its number."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)
            while True:
                signal.pause()
        finally:
            os._exit(1)
    return child


@contextlib.contextmanager
def _nowhere() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
