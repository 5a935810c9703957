# SPDX-License-Identifier: MIT
"""What is in a plan and what is not, where the machine has nothing for a phase to do."""

from __future__ import annotations

import pytest

from kexecd.config.policy import Policy
from kexecd.model import Act, Way
from kexecd.plan import Parts, build
from kexecd.teardown.survey import Survey

SOMEBODY = Survey(terminals=("/dev/pts/0",))


@pytest.mark.parametrize("way", [Way.FAST, Way.NOW])
@pytest.mark.parametrize(
    ("survey", "policy", "told"),
    [(SOMEBODY, Policy(), True), (SOMEBODY, Policy(announce=False), False), (Survey(), Policy(), False)],
)
def test_people_are_told_where_there_are_any(way: Way, survey: Survey, policy: Policy, told: bool) -> None:
    plan = build(way, Act.KEXEC, policy, survey, Parts(), going_to="Linux 7")
    assert ("announce" in [phase.name for phase in plan.phases]) is told


@pytest.mark.parametrize("way", [Way.FAST, Way.NOW])
@pytest.mark.parametrize("has_arrays", [True, False])
def test_arrays_are_waited_for_where_there_are_any(way: Way, has_arrays: bool) -> None:
    plan = build(way, Act.KEXEC, Policy(), Survey(has_arrays=has_arrays), Parts(), going_to="Linux 7")
    assert ("settle" in [phase.name for phase in plan.phases]) is has_arrays
