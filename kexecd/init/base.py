# SPDX-License-Identifier: MIT
"""What kexecd asks of an init system, whichever it is."""

from __future__ import annotations

from typing import Protocol

from kexecd.config.policy import Policy
from kexecd.model import Act, Process
from kexecd.plan import ServiceSteps


class Init(Protocol):
    @property
    def name(self) -> str: ...

    def services(self, policy: Policy, processes: tuple[Process, ...]) -> ServiceSteps:
        """The steps that stop what this init would otherwise start again, with the policy's graces.

        processes: those of which it is asked who would be covered.
        """
        ...

    def describe_restart(self, act: Act) -> str:
        """What restart() does, for the plan."""
        ...

    def refuse_beforehand(self, act: Act) -> None:
        """Raise what restart() is known to be refused with, before anything is done for it."""
        ...

    def restart(self, act: Act) -> None:
        """Ask for a whole ordinary restart, services and all; returns when it has been accepted. Raises a Refusal."""
        ...

    def has_last_word(self) -> str:
        """Why PID 1 has to be the one who jumps, as the beginning of a sentence; empty if it does not matter."""
        ...

    def going_down(self) -> bool:
        """Whether PID 1 is taking the machine down already, so that nothing can be cancelled any more."""
        ...

    def warm_up(self) -> None:
        """Have the resident daemon started, so that the next restart begins at once; a failure does not matter."""
        ...

    def describe_finish(self, act: Act) -> str:
        """What finish() does, for the plan."""
        ...

    def finish(self, act: Act) -> bool:
        """Hand the rest over to PID 1, when everything is down; False if this PID 1 has no way to be told."""
        ...
