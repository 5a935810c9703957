# SPDX-License-Identifier: MIT
"""Which cells `make test` runs: each of the three ways back once, in turn on either init; `make campaign` runs all."""

from __future__ import annotations

from collections.abc import Sequence

from tests.vm.campaign.cases import CASES, Back, Case
from tests.vm.campaign.guests import GUESTS

Pair = tuple[Case, str]

USUAL = ("panic early", "health check failing", "hang in the kernel")
"""The quickest of each way back."""


def all_cells(cases: Sequence[Case] = CASES) -> tuple[Pair, ...]:
    """Each case in each guest, guest after guest."""
    return tuple((case, guest) for guest in GUESTS for case in cases)


def subset() -> tuple[Pair, ...]:
    names = tuple(GUESTS)
    chosen = [next(case for case in CASES if case.name == name) for name in USUAL]
    assert {case.back for case in chosen} == set(Back), "a way back is left out"
    return tuple((case, names[number % len(names)]) for number, case in enumerate(chosen))
