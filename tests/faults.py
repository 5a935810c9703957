# SPDX-License-Identifier: MIT
"""Steps that go wrong: an error, a step that never ends, a kexecd that is killed, each when the real work is done.

When it is done, because that is when there is most to take back. Needs nothing but kexecd, so that it runs in a guest.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from enum import StrEnum

from kexecd.model import Context, Phase, Plan, Running, Step, Wait


class Fault(StrEnum):
    ERROR = "error"
    TIMEOUT = "timeout"
    KILLED = "killed"


@dataclass(frozen=True)
class Faulty:
    """A step of a plan that goes wrong."""

    step: Step
    fault: Fault

    @property
    def name(self) -> str:
        return self.step.name

    def describe(self) -> str:
        return self.step.describe()

    def run(self, context: Context) -> Running:
        yield from self.step.run(context)
        if self.fault is Fault.ERROR:
            raise OSError(5, "a fault for the test")
        if self.fault is Fault.KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            yield Wait(frozenset(), context.deadline + 1000)

    def undo(self) -> None:
        self.step.undo()


def places(plan: Plan, *, committed: bool) -> list[tuple[int, str]]:
    """Every step on that side of the commit point: its number and "phase/step"."""
    found, number, past = [], 0, False
    for phase in plan.phases:
        past = past or phase.commit
        for step in phase.steps:
            if past is committed:
                found.append((number, f"{phase.name}/{step.name}"))
            number += 1
    return found


def broken(plan: Plan, number: int, fault: Fault, *, patience: float = 1.0) -> Plan:
    """The plan with that step faulty, and its phase with little patience, so that a time-out is soon noticed."""
    phases: list[Phase] = []
    for phase in plan.phases:
        steps = list(phase.steps)
        if 0 <= number < len(steps):
            steps[number] = Faulty(steps[number], fault)
            # The real work comes first, and reading an image takes an emulated machine some seconds.
            enough = patience + 4.0 if phase.name == "load" else patience
            bound = min(phase.at_least, enough) if fault is Fault.TIMEOUT else phase.at_least
            phase = replace(phase, steps=tuple(steps), at_least=bound)
        number -= len(phase.steps)
        phases.append(phase)
    return replace(plan, phases=tuple(phases))
