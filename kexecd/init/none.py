# SPDX-License-Identifier: MIT
"""A PID 1 that we have no hook in, or that does not answer: everything is done by ourselves.

Any process with CAP_SYS_BOOT in the initial PID namespace may jump (reboot(2)); PID 1 is not needed for it.
"""

from __future__ import annotations

from kexecd.config.policy import Policy
from kexecd.errors import Unsupported
from kexecd.init.by_class import by_class
from kexecd.model import Act, Process
from kexecd.plan import ServiceSteps


class NoInit:
    def __init__(self, name: str) -> None:
        self.name = name

    def services(self, policy: Policy, processes: tuple[Process, ...]) -> ServiceSteps:
        return by_class(policy, processes)

    def describe_restart(self, act: Act) -> str:
        del act
        return f"not possible: kexecd has no hook in {self.name} yet"

    def refuse_beforehand(self, act: Act) -> None:
        raise Unsupported(
            f"cannot ask for an orderly {act} restart",
            f"kexecd has no hook in this machine's init ({self.name}) yet",
            hint="kexecctl reboot --fast does it without PID 1",
        )

    def restart(self, act: Act) -> None:
        self.refuse_beforehand(act)

    def has_last_word(self) -> str:
        return ""

    def going_down(self) -> bool:
        return False

    def warm_up(self) -> None:
        """Nobody here starts anything for us."""

    def describe_finish(self, act: Act) -> str:
        return f"call reboot(2): {act}"

    def finish(self, act: Act) -> bool:
        del act
        return False
