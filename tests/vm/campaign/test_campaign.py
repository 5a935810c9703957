# SPDX-License-Identifier: MIT
"""Each of the three ways back once, and a loss of power; `make campaign` does all of it on either init."""

from __future__ import annotations

import pytest

from tests.vm.campaign.cases import Case
from tests.vm.campaign.cell import run
from tests.vm.campaign.subset import subset


@pytest.mark.parametrize(
    ("case", "guest"), [pytest.param(case, guest, id=f"{guest}: {case.name}") for case, guest in subset()]
)
def test_the_machine_comes_back_by_itself_and_remembers_why(case: Case, guest: str) -> None:
    seen = run(case, guest)
    print(seen.line())
    assert seen.good, "\n".join((*seen.problems, seen.told))
