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

from kexecd import state
from kexecd.cli.draft import draw_up
from kexecd.executor import Executor, RealClock
from kexecd.kernel import pidfd, proc
from kexecd.kernel.spawn import MOST_FDS
from kexecd.model import Context, Phase, Running, State, Step, Way
from kexecd.record import RUN_DIR, loaded_record
from kexecd.report import down
from kexecd.report.events import Sinks
from kexecd.report.log import Log, as_fields
from kexecd.teardown.announce import Announce
from kexecd.teardown.processes import Everyone, Held, quit_found
from kexecd.teardown.spare import Spare
from kexecd.teardown.verdict import Verify
from kexecd.teardown.workers import Call, Workers
from kexecd.wayback import begin
from kexecd.wayback.begin import Terms

NO_LOG = "/nonexistent"
"""A path where no log listens."""

GRACE = 1.0
"""Seconds for the volunteer to quit, and for a worker to answer."""

LONGEST = 60
"""Seconds until the volunteer ends by itself, where whoever has made it was killed."""


def go_down(options: Namespace, workers: int) -> None:
    """Draw up the plan of `reboot --fast`, and walk what only looks, with so many workers. Nothing where no image waits
    in memory: that would mount and read much. Raises what drawing up a plan raises."""
    if loaded_record() is None:
        return
    plan = draw_up(options).plan
    steps: tuple[Step, ...] = (Announce("nobody"), _QuitVolunteer(), _AskWorkers(workers), Verify())
    phases = tuple(Phase(step.name, number, "for practice", (step,)) for number, step in enumerate(steps))
    with _nowhere() as nobody, _scratch(RUN_DIR) as scratch:
        told = Sinks((nobody,), (nobody,), plain=(nobody,), log=Log(NO_LOG, as_fields), within=plan.within)
        Executor(replace(plan, phases=phases, hurry=()), emit=told, clock=RealClock()).run()
        state.reached(State.PREPARED, plan.way, plan.act, loaded=False, run_dir=scratch)


def write_down(run_dir: str = RUN_DIR) -> None:
    """Write down what is written down of a restart. Raises OSError."""
    if image := loaded_record():
        with _scratch(run_dir) as scratch:
            begin.write(begin.record(image, Way.FAST, Terms()), scratch)
            down.keep(run_dir, image.nonce, Way.FAST, scratch)


@dataclass(frozen=True, slots=True)
class _QuitVolunteer:
    """Look for everybody who would be asked to quit, and ask only a child of ours, which is there for that."""

    name: str = "quit"

    def describe(self) -> str:
        return "ask a volunteer to quit"

    def run(self, context: Context) -> Running:
        volunteer = _volunteer()
        try:
            yield from quit_found(context, _Only(volunteer), GRACE, first=False)
        finally:
            os.kill(volunteer, signal.SIGKILL)  # our own child, not yet waited for: the number is still its own
            os.waitpid(volunteer, 0)

    def undo(self) -> None:
        """Nothing has happened."""


@dataclass(frozen=True, slots=True)
class _AskWorkers:
    """Have each write back what is only in memory anyway."""

    count: int
    name: str = "ask"

    def describe(self) -> str:
        return f"have {self.count} workers sync {RUN_DIR}"

    def run(self, context: Context) -> Running:
        workers = Workers(self.count, patience=GRACE, now=context.now)
        try:
            yield from workers.run([Call("syncfs", (RUN_DIR,))] * self.count, context.deadline)
        finally:
            workers.close()

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
            os.closerange(0, MOST_FDS)  # the others who help end when their channels do, of which it has copies
            signal.alarm(LONGEST)
            while True:
                signal.pause()
        finally:
            os._exit(1)
    return child


@contextlib.contextmanager
def _scratch(run_dir: str) -> Iterator[str]:
    """A directory in memory, which goes with all that is in it."""
    path = os.path.join(run_dir, f"practice.{os.getpid()}")
    os.makedirs(path, mode=0o700)
    try:
        yield path
    finally:
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)


@contextlib.contextmanager
def _nowhere() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
