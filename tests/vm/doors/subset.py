# SPDX-License-Identifier: MIT
"""Which cells `make test` runs: every door once, and every guest at least three times, if it has as many doors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.vm.doors.guests import GUESTS
from tests.vm.doors.table import TABLE, Door
from tests.vm.lab.recipe import Recipe

AT_LEAST = 3

Pair = tuple[Door, Recipe]


def all_cells(table: Sequence[Door] = TABLE, guests: Sequence[Recipe] = GUESTS) -> tuple[Pair, ...]:
    """Each door in each guest that has it, guest after guest."""
    return tuple((door, guest) for guest in guests for door in table if door.command(guest) is not None)


def subset(table: Sequence[Door] = TABLE, guests: Sequence[Recipe] = GUESTS) -> tuple[Pair, ...]:
    """Each door goes to the guest that has the fewest so far; who has too few then gets more, from the first on."""
    cells = all_cells(table, guests)
    has: Counter[str] = Counter()
    taken = set()

    def take(cell: Pair) -> None:
        taken.add(cell)
        has[cell[1].name] += 1

    for door in table:
        take(min((cell for cell in cells if cell[0] is door), key=lambda cell: has[cell[1].name]))
    for cell in cells:
        if cell not in taken and has[cell[1].name] < AT_LEAST:
            take(cell)
    return tuple(cell for cell in cells if cell in taken)
