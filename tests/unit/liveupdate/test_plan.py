# SPDX-License-Identifier: MIT
"""Where in a plan memory that was handed over has its place: asked before anybody quits, taken when nobody writes."""

from __future__ import annotations

import pytest

from kexecd.config.policy import Policy
from kexecd.liveupdate import steps
from kexecd.liveupdate.carrier import Forecast
from kexecd.liveupdate.index import Carrier
from kexecd.model import Act, Plan, State, Way
from kexecd.plan import Parts, build
from kexecd.teardown.survey import Survey


def plan(way: Way) -> Plan:
    carry = (steps.prepare_phase("/run/x", lambda: Forecast(Carrier.FILE, "a test")), steps.freeze_phase("/run/x"))
    return build(way, Act.KEXEC, Policy(), Survey(terminals=("/dev/pts/0",)), Parts(carry=carry), going_to="Linux 7")


def names(plan: Plan) -> list[str]:
    return [phase.name for phase in plan.phases]


def test_fast_asks_before_people_are_told_and_takes_it_when_all_have_quit() -> None:
    order = names(plan(Way.FAST))
    assert order.index("prepare state") < order.index("announce") < order.index("processes") < order.index("state")
    assert order.index("state") + 1 == order.index("sync")


def test_a_restart_that_is_made_to_hurry_takes_it_too() -> None:
    assert [phase.name for phase in plan(Way.FAST).hurry][:2] == ["state", "sync"]


def test_now_asks_nobody_but_the_holder() -> None:
    assert names(plan(Way.NOW))[:4] == ["prepare state", "announce", "state", "sync"]


def test_on_pid_1s_own_way_it_is_asked_before_pid_1_is_and_taken_by_the_service() -> None:
    assert names(plan(Way.ORDERLY)) == ["prepare state"]


@pytest.mark.parametrize("way", [Way.FAST, Way.NOW])
def test_the_states_of_the_restart_are_reached_with_it(way: Way) -> None:
    reached = {phase.reaches: phase.name for phase in plan(way).phases if phase.reaches}
    assert reached == {State.PREPARED: "announce", State.FROZEN: "state"}
