# SPDX-License-Identifier: MIT
"""All that `make campaign` does, a piece each: none has to do with another, and each is in a machine of its own.

What takes longest comes first, so that at the end nobody waits long for the last one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.vm.campaign import alternate, cell, powercut
from tests.vm.campaign.alternate import Row
from tests.vm.campaign.cases import CASES, Back, Case
from tests.vm.campaign.cell import Cell
from tests.vm.campaign.guests import GUESTS
from tests.vm.campaign.powercut import Cut

Seen = Cell | Row | Cut


class Part(enum.StrEnum):
    """The kinds of work, in the order in which they are done."""

    ALTERNATE = "alternate"
    CELLS = "cells"
    POWERCUT = "powercut"


SLOWEST = (Back.WATCHDOG, Back.CONFIRM, Back.PANIC)
"""Among the cells: the first two wait until the limit is over."""


@dataclass(frozen=True, slots=True)
class Work:
    """One piece. name: of the case or of the moment; good and bad kernels in turn have none."""

    part: Part
    guest: str
    name: str = ""

    def line(self) -> str:
        """One line for a person."""
        what = {Part.ALTERNATE: "good and bad kernels in turn", Part.CELLS: "", Part.POWERCUT: "power cut: "}
        return f"{self.guest:<20} {what[self.part]}{self.name}"

    def do(self, kexecs: int = alternate.KEXECS) -> Iterator[Seen]:
        """Each thing as it is seen. kexecs: how many in turn."""
        match self.part:
            case Part.ALTERNATE:
                yield from alternate.run(self.guest, kexecs)
            case Part.CELLS:
                yield cell.run(_case(self.name), self.guest)
            case Part.POWERCUT:
                yield powercut.run(self.name, self.guest)

    def done(self, seen: Sequence[Seen], kexecs: int = alternate.KEXECS) -> bool:
        """Whether this is all of it, and good."""
        return all(each.good for each in seen) and len(seen) >= (kexecs if self.part is Part.ALTERNATE else 1)


def all_work() -> tuple[Work, ...]:
    cases = sorted(CASES, key=lambda case: SLOWEST.index(case.back))
    return (
        *(Work(Part.ALTERNATE, guest) for guest in GUESTS),
        *(Work(Part.CELLS, guest, case.name) for case in cases for guest in GUESTS),
        *(Work(Part.POWERCUT, guest, moment) for moment in powercut.lives() for guest in GUESTS),
    )


def of(seen: Seen) -> Work:
    """What it is a result of."""
    match seen:
        case Cell():
            return Work(Part.CELLS, seen.guest, seen.case)
        case Row():
            return Work(Part.ALTERNATE, seen.guest)
        case Cut():
            return Work(Part.POWERCUT, seen.guest, seen.moment)


def _case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)
