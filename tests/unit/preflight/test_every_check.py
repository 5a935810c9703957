# SPDX-License-Identifier: MIT
"""Every check fires for what it is there for, and is silent for what only looks like it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kexecd.config.checks import CheckId
from kexecd.preflight.facts import Facts
from kexecd.preflight.judge import judge
from kexecd.preflight.table import CHECKS
from tests.unit.preflight import (
    devices_cases,
    handover_cases,
    image_cases,
    people_cases,
    permission_cases,
    recovery_cases,
    scripts_cases,
    storage_cases,
    turn_cases,
)
from tests.unit.preflight.cases import CASES, Case
from tests.unit.preflight.machine import Machine

ROOMS = (
    *(devices_cases, handover_cases, image_cases, people_cases),
    *(permission_cases, recovery_cases, scripts_cases, storage_cases, turn_cases),
)
"""Imported for the cases that they register."""

FIRE = [case for case in CASES if case.severity]
SILENT = [case for case in CASES if not case.severity]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with ExitStack() as opened:
        yield Machine(tmp_path, opened)


def test_a_machine_in_order_makes_no_check_fire(machine: Machine) -> None:
    assert judge(machine.facts()) == ()


@pytest.mark.parametrize("case", FIRE, ids=lambda case: case.name)
def test_it_fires(case: Case, machine: Machine) -> None:
    def look(facts: Facts) -> None:
        findings = [finding for finding in judge(facts) if finding.check is case.check]
        assert findings, f"{case.check} says nothing"
        assert findings[0].severity is case.severity
        assert case.says in findings[0].why
        assert findings[0].remedy

    case.made(machine, look)


@pytest.mark.parametrize("case", SILENT, ids=lambda case: case.name)
def test_it_stays_silent(case: Case, machine: Machine) -> None:
    def look(facts: Facts) -> None:
        assert [finding.why for finding in judge(facts) if finding.check is case.check] == []

    case.made(machine, look)


@pytest.mark.parametrize("cases", [FIRE, SILENT], ids=["fires", "stays silent"])
def test_each_check_has_a_case(cases: list[Case]) -> None:
    assert ROOMS
    assert {case.check for case in cases} == set(CheckId)


def test_the_table_has_each_check_once_and_in_the_order_of_their_names() -> None:
    assert [check.id for check in CHECKS] == list(CheckId)


@pytest.mark.parametrize("case", FIRE, ids=lambda case: case.name)
def test_what_it_says_is_a_sentence_without_a_full_stop(case: Case, machine: Machine) -> None:
    def look(facts: Facts) -> None:
        for finding in judge(facts):
            for text in (finding.why, finding.remedy):
                assert not text.endswith(".")
                assert "\n" not in text

    case.made(machine, look)
