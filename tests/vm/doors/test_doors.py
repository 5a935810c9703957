# SPDX-License-Identifier: MIT
"""Every door out of a machine once, and every guest at least three times; `make matrix` does all of them everywhere."""

from __future__ import annotations

import pytest

from tests.vm.doors.cell import run
from tests.vm.doors.subset import subset
from tests.vm.doors.table import Door
from tests.vm.lab.recipe import Recipe


@pytest.mark.parametrize(
    ("door", "guest"), [pytest.param(door, guest, id=f"{guest.name}: {door.name}") for door, guest in subset()]
)
def test_it_ends_as_it_has_to_and_nothing_is_replayed(door: Door, guest: Recipe) -> None:
    cell = run(door, guest)
    print(cell.line())
    assert cell.good, "\n".join((*cell.problems, cell.told))
