# SPDX-License-Identifier: MIT
"""The files of what is known not to work: each row says what happens, what to do, and where that is written."""

from __future__ import annotations

import os
import re

import pytest

from kexecd.preflight.devices import DATA, Row, rows
from kexecd.preflight.finding import Severity

FILES = ("drivers", "hypervisors", "machines")
ROWS = [(name, row) for name in FILES for row in rows(name)]
ISSUE = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+")


def test_each_file_is_one_of_the_three() -> None:
    assert sorted(os.listdir(DATA)) == [f"{name}.toml" for name in FILES]


@pytest.mark.parametrize(("file", "row"), ROWS, ids=[row.name for _, row in ROWS])
def test_a_row_names_its_evidence(file: str, row: Row) -> None:
    assert row.evidence
    assert all(ISSUE.fullmatch(place) for place in row.evidence)


@pytest.mark.parametrize(("file", "row"), ROWS, ids=[row.name for _, row in ROWS])
def test_a_row_says_what_happens_and_what_to_do(file: str, row: Row) -> None:
    for text in (row.why, row.remedy):
        assert text
        assert not text.endswith(".")
        assert len(text) <= 140


@pytest.mark.parametrize(("file", "row"), ROWS, ids=[row.name for _, row in ROWS])
def test_a_row_counts_only_for_something(file: str, row: Row) -> None:
    assert bool(row.bus) is (file == "drivers")
    assert bool(row.match) is (file != "drivers")
    assert all(wanted for _, wanted in row.match)


def test_no_row_is_there_twice() -> None:
    assert len({(file, row.name) for file, row in ROWS}) == len(ROWS)


def test_no_driver_refuses_since_another_model_of_it_may_work() -> None:
    assert {row.severity for row in rows("drivers")} <= {Severity.WARN, Severity.NOTE}
