# SPDX-License-Identifier: MIT
"""Runs any plan: phases in order, the steps of a phase in parallel, one deadline over all of it. Knows no step by name.

Before the commit point a step that fails or overstays ends the plan, and so does a request to cancel: everything that
was begun is undone, last first, and a Refusal says why. After it nothing stops the machine from going down: a failure
becomes an event, and the next phase follows. The irreversible act is not done here: it is a value in the result.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from kexecd.errors import NotRestarted, Refusal
from kexecd.model import Act, Ask, Context, Event, EventKind, Left, Phase, Plan, Running, State, Step, Verdict, Wait

OVERTIME = 1.0
"""Seconds that a step gets past its deadline to end by itself, before it is ended."""

PULSE = 5.0
"""Seconds after which the witness hears from us at the latest, as long as we are not stuck ourselves."""

UNDONE = "everything that was begun is undone"

Emit = Callable[[Event], None]


class Clock(Protocol):
    def now(self) -> float:
        """Seconds, never going back."""
        ...

    def wait(self, fds: frozenset[int], until: float) -> frozenset[int]:
        """Sleep until one of `fds` is readable or the clock is at `until`; returns the readable ones."""
        ...


class RealClock:
    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wait(self, fds: frozenset[int], until: float) -> frozenset[int]:
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        # Rounded up: a timeout of 0 would spin until the clock arrives.
        timeout = max(0, int((until - self.now()) * 1000) + 1)
        return frozenset(fd for fd, _ in poll.poll(timeout))


class Witness:
    """Who is told how far the plan has come, so that somebody else can finish it (kexecd.standby); this one is nobody.

    Steps are numbered from 0 through all phases.
    """

    def begun(self, step: int) -> None:
        """This step begins now."""

    def committed(self) -> None:
        """The machine goes down from now on."""

    def alive(self) -> None:
        """Nothing new; comes every PULSE seconds."""


class Demand(Protocol):
    """What somebody asks of a restart that is under way."""

    @property
    def ask(self) -> Ask: ...

    @property
    def by(self) -> str: ...

    def answer(self, done: bool, text: str) -> None: ...


class Control:
    """Where demands come in (kexecd.control); from this one, none."""

    @property
    def fds(self) -> frozenset[int]:
        return frozenset()

    def take(self, readable: frozenset[int]) -> Iterable[Demand]:
        """Those that have come in whole; never waits."""
        del readable
        return ()


@dataclass(frozen=True, slots=True)
class Result:
    """committed: False for a plan that leaves the going down to somebody else."""

    verdict: Verdict
    failures: tuple[str, ...]  # "step: why" of what failed after the commit point
    committed: bool = True

    def act(self, wanted: Act, *, jump_when_dirty: bool) -> Act:
        """What to do now: a machine that is not clean restarts through the firmware, unless it was told otherwise."""
        if wanted is Act.KEXEC and self.verdict.dirt and not jump_when_dirty:
            return Act.FIRMWARE
        return wanted


@dataclass(slots=True)
class _Task:
    step: Step
    running: Running
    since: float
    wait: Wait = field(default=Wait(frozenset(), 0.0))


class _StepFailed(Exception):
    def __init__(self, step: Step, why: str, cause: Exception | None) -> None:
        super().__init__(f"{step.name}: {why}")
        self.cause = cause


class _Cancelled(Exception):
    def __init__(self, demand: Demand) -> None:
        super().__init__(f"it was cancelled by {demand.by}")
        self.demand = demand


class _Hurried(Exception):
    """Somebody says --now."""


class Executor:
    def __init__(
        self,
        plan: Plan,
        *,
        emit: Emit,
        clock: Clock,
        witness: Witness | None = None,
        control: Control | None = None,
        committed: bool = False,
    ) -> None:
        """committed: the plan goes on from where another walker committed it."""
        self._plan, self._emit, self._clock = plan, emit, clock
        self._witness, self._control = witness or Witness(), control or Control()
        self._phase = ""
        self._numbers = {id(step): number for number, step in enumerate(steps_of(plan))}
        self._begun: list[Step] = []
        self._hurried = False  # somebody said --now
        self._hurrying = False  # and what follows is what was meant by it
        self.committed = committed  # whether the machine goes down whatever happens
        self._failures: list[str] = []
        self._end = clock.now() + plan.within
        self._context = Context(now=clock.now, deadline=self._end, tell=self._tell, quit=self._quit)

    def run(self) -> Result:
        """The whole plan. Raises a Refusal, with everything undone, if it ends before the commit point."""
        self._say(EventKind.PLAN, text=f"{self._plan.way}, {self._plan.within:g} s")
        try:
            for phase in self._plan.phases:
                if phase.essential or not self._hurried:
                    self._enter(phase)
            if self._hurried:
                self._hurrying = True
                for phase in self._plan.hurry:
                    self._enter(phase)
        except _StepFailed as failure:
            self.give_up()
            if isinstance(failure.cause, Refusal):
                raise failure.cause from failure
            raise NotRestarted("the restart was given up", str(failure), instead=UNDONE) from failure
        except _Cancelled as cancelled:
            self.give_up()
            cancelled.demand.answer(True, "the restart is cancelled, and everything that was begun is undone")
            raise NotRestarted("the restart was given up", str(cancelled), instead=UNDONE) from cancelled
        if not self.committed:
            return Result(Verdict(), (), committed=False)
        verdict = self._context.verdict or Verdict(dirt=(Left("nobody", "looked at what is left"),))
        self._emit(Event(EventKind.VERDICT, self._clock.now(), self._phase, text=verdict.sentence(), verdict=verdict))
        return Result(verdict, tuple(self._failures))

    def give_up(self) -> None:
        """Undo what was begun, for whoever ended run() from outside before the commit point."""
        undo(self._begun, self._say, self._witness.alive)
        self._begun.clear()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase.name
        now = self._clock.now()
        if phase.commit and not self.committed:
            self.committed, self._end = True, now + self._plan.within
            self._witness.committed()
            self._say(EventKind.COMMIT, text="from here on the machine goes down, whatever happens")
        self._context.deadline = now + max(phase.at_least, (self._end - now) * phase.share, 0.0)
        try:
            self._run_phase(phase)
        except _Hurried:
            return  # what is left of this phase is left to the hurried ones
        if phase.reaches:
            self._say(EventKind.STATE, text=phase.reaches)

    def _run_phase(self, phase: Phase) -> None:
        begin = self._clock.now()
        self._say(EventKind.PHASE, text=phase.why)
        tasks: list[_Task] = []
        try:
            for step in phase.steps:
                self._witness.begun(self._numbers[id(step)])
                self._begun.append(step)
                self._say(EventKind.STEP, step, step.describe())
                self._resume(_Task(step, step.run(self._context), self._clock.now()), frozenset(), tasks)
            while tasks:
                limit = self._context.deadline + OVERTIME
                fds = self._control.fds.union(*(task.wait.fds for task in tasks))
                until = min(limit, self._clock.now() + PULSE, *(task.wait.until for task in tasks))
                readable = self._clock.wait(fds, until)
                self._witness.alive()
                self._listen(readable, phase)
                now = self._clock.now()
                for task in tuple(tasks):
                    if task.wait.fds & readable or now >= task.wait.until:
                        tasks.remove(task)
                        self._resume(task, task.wait.fds & readable, tasks)
                    elif now >= limit:
                        tasks.remove(task)
                        self._fail(task, f"did not end within {now - task.since:.1f} s")
        finally:
            for task in tasks:
                task.running.close()
        self._say(EventKind.DONE, seconds=self._clock.now() - begin)

    def _resume(self, task: _Task, readable: frozenset[int], tasks: list[_Task]) -> None:
        """Let a step go on until it waits again (then it is back in `tasks`) or ends."""
        try:
            # A generator that has not begun takes nothing but None.
            task.wait = task.running.send(readable) if task.wait.until else next(task.running)
        except StopIteration:
            self._say(EventKind.DONE, task.step, seconds=self._clock.now() - task.since)
        except Exception as error:  # whatever a step does, the way down must not end here
            self._fail(task, str(error) or type(error).__name__, error)
        else:
            tasks.append(task)

    def _fail(self, task: _Task, why: str, cause: Exception | None = None) -> None:
        task.running.close()
        self._say(EventKind.FAILED, task.step, why, seconds=self._clock.now() - task.since)
        if not self.committed:
            raise _StepFailed(task.step, why, cause)
        self._failures.append(f"{task.step.name}: {why}")

    def _listen(self, readable: frozenset[int], phase: Phase) -> None:
        """Hear what is asked of us meanwhile."""
        for demand in self._control.take(readable & self._control.fds):
            if demand.ask is Ask.CANCEL and self.committed:
                demand.answer(False, "it is past the commit point, and goes down whatever happens")
            elif demand.ask is Ask.CANCEL:
                raise _Cancelled(demand)
            elif not self._plan.hurry or self._hurried:
                demand.answer(False, "it hurries already, and cannot go faster")
            else:
                demand.answer(True, "nobody is asked any more")
                self._say(EventKind.NOTE, text=f"{demand.by} says --now: nobody is asked any more")
                self._hurried = True
        if self._hurried and not (phase.essential or self._hurrying):
            raise _Hurried

    def _tell(self, text: str) -> None:
        self._say(EventKind.NOTE, text=text)

    def _quit(self, who: str, at: float, seconds: float) -> None:
        self._emit(Event(EventKind.QUIT, at, self._phase, text=who, seconds=seconds))

    def _say(self, kind: EventKind, step: Step | None = None, text: str = "", seconds: float = 0.0) -> None:
        self._emit(Event(kind, self._clock.now(), self._phase, step.name if step else "", text, seconds))


def steps_of(plan: Plan) -> tuple[Step, ...]:
    """Every step of a plan in the order in which they begin, those of a hurry last; what a Witness numbers."""
    return tuple(step for phase in (*plan.phases, *plan.hurry) for step in phase.steps)


def undo(begun: Iterable[Step], say: Callable[[EventKind, Step | None, str], None], pulse: Callable[[], None]) -> None:
    """Take back these steps, last first; one that cannot be undone does not keep the others from it."""
    for step in reversed(tuple(begun)):
        pulse()
        try:
            step.undo()
        except Exception as error:  # the others are undone all the same
            say(EventKind.FAILED, step, f"could not be undone: {error}, ignoring")
        else:
            say(EventKind.UNDONE, step, "")
    say(EventKind.STATE, None, State.NORMAL)
