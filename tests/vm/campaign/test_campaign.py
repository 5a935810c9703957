# SPDX-License-Identifier: MIT
"""Each of the three ways back once, one of them until a good kexec is confirmed, and a loss of power; `make campaign`
does all of it on either init.
"""

from __future__ import annotations

import pytest

from tests.vm.campaign import powercut
from tests.vm.campaign.cases import Back, Case
from tests.vm.campaign.cell import run
from tests.vm.campaign.guests import GUESTS
from tests.vm.campaign.powercut import AFTER
from tests.vm.campaign.subset import subset


@pytest.mark.parametrize(
    ("case", "guest"), [pytest.param(case, guest, id=f"{guest}: {case.name}") for case, guest in subset()]
)
def test_the_machine_comes_back_by_itself_and_remembers_why(case: Case, guest: str) -> None:
    seen = run(case, guest, whole=case.back is Back.PANIC)
    print(seen.line())
    assert seen.good, "\n".join((*seen.problems, seen.told))


def test_what_was_written_before_a_loss_of_power_is_there_after_it() -> None:
    guest = tuple(GUESTS)[-1]
    cut = powercut.run(f"after {AFTER[-1]} rounds of writes", guest)
    print(cut.line())
    assert cut.good, "\n".join(cut.problems)
