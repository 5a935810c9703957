# SPDX-License-Identifier: MIT
"""Runs any plan: phases in order, the steps of a phase in parallel, one deadline over all of it. Knows no step by name.

Before the commit point a step that fails or overstays ends the plan: everything that was begun is undone, last first,
and a Refusal says why. After it nothing stops the machine from going down: a failure becomes an event, and the next
phase follows. The irreversible act is not done here: it is a value in the result.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from kexecd.errors import NotRestarted
from kexecd.model import Act, Context, Event, EventKind, Phase, Plan, Running, Step, Verdict, Wait

OVERTIME = 1.0
"""Seconds that a step gets past its deadline to end by itself, before it is ended."""

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


@dataclass(frozen=True, slots=True)
class Result:
    verdict: Verdict
    failures: tuple[str, ...]  # "step: why" of what failed after the commit point

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
    def __init__(self, step: Step, why: str) -> None:
        super().__init__(f"{step.name}: {why}")


class Executor:
    def __init__(self, plan: Plan, *, emit: Emit, clock: Clock) -> None:
        self._plan, self._emit, self._clock = plan, emit, clock
        self._phase = ""
        self._begun: list[Step] = []
        self.committed = False  # whether the machine goes down whatever happens
        self._failures: list[str] = []
        self._context = Context(now=clock.now, deadline=clock.now() + plan.within, tell=self._tell)

    def run(self) -> Result:
        """The whole plan. Raises NotRestarted, with everything undone, if it ends before the commit point."""
        self._say(EventKind.PLAN, text=f"{self._plan.way}, {self._plan.within:g} s")
        end = self._context.deadline
        try:
            for phase in self._plan.phases:
                self._phase = phase.name
                if phase.commit and not self.committed:
                    self.committed = True
                    self._say(EventKind.COMMIT, text="from here on the machine goes down, whatever happens")
                now = self._clock.now()
                self._context.deadline = now + max(phase.at_least, (end - now) * phase.share, 0.0)
                self._run_phase(phase)
        except _StepFailed as failure:
            self._undo()
            raise NotRestarted(
                "the restart was given up", str(failure), instead="everything that was begun is undone"
            ) from failure
        verdict = self._context.verdict or Verdict(dirt=("nobody looked at what is left",))
        self._say(EventKind.VERDICT, text=verdict.sentence())
        return Result(verdict, tuple(self._failures))

    def _run_phase(self, phase: Phase) -> None:
        begin = self._clock.now()
        self._say(EventKind.PHASE, text=phase.why)
        tasks: list[_Task] = []
        try:
            for step in phase.steps:
                self._begun.append(step)
                self._say(EventKind.STEP, step, step.describe())
                self._resume(_Task(step, step.run(self._context), self._clock.now()), frozenset(), tasks)
            while tasks:
                limit = self._context.deadline + OVERTIME
                fds = frozenset[int]().union(*(task.wait.fds for task in tasks))
                readable = self._clock.wait(fds, min(limit, *(task.wait.until for task in tasks)))
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
            self._fail(task, str(error) or type(error).__name__)
        else:
            tasks.append(task)

    def _fail(self, task: _Task, why: str) -> None:
        task.running.close()
        self._say(EventKind.FAILED, task.step, why, seconds=self._clock.now() - task.since)
        if not self.committed:
            raise _StepFailed(task.step, why)
        self._failures.append(f"{task.step.name}: {why}")

    def _undo(self) -> None:
        for step in reversed(self._begun):
            try:
                step.undo()
            except Exception as error:  # the others are undone all the same
                self._say(EventKind.FAILED, step, f"could not be undone: {error}, ignoring")
            else:
                self._say(EventKind.UNDONE, step)

    def _tell(self, text: str) -> None:
        self._say(EventKind.NOTE, text=text)

    def _say(self, kind: EventKind, step: Step | None = None, text: str = "", seconds: float = 0.0) -> None:
        self._emit(Event(kind, self._clock.now(), self._phase, step.name if step else "", text, seconds))
