# SPDX-License-Identifier: MIT
"""What is said in the log and on the console, and that the docs tell the same."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kexecd.model import Event, EventKind
from kexecd.report.events import A_WHILE, PERIOD, Sinks, as_text
from kexecd.report.messages import ROWS, Kind, Priority, message, of_event

DOCS = Path(__file__).parents[2] / "docs/logs.md"


def test_the_table_of_the_docs_is_the_one_of_the_code() -> None:
    rows = re.findall(r"^\| `(\S+)` \| ([0-9a-f]{32}) \| (\w+) \| (.*) \|$", DOCS.read_text(encoding="utf-8"), re.M)
    assert rows == [(kind, row.id, row.priority.name.lower(), row.when) for kind, row in ROWS.items()]


def test_no_two_kinds_share_an_id() -> None:
    assert len({row.id for row in ROWS.values()}) == len(Kind) == len(ROWS)


@pytest.mark.parametrize("kind", sorted(set(EventKind) - {EventKind.PHASE, EventKind.QUIT}))
def test_each_event_that_a_person_reads_has_a_message(kind: EventKind) -> None:
    told = of_event(Event(kind, 1.0, "unmount", text="why", seconds=A_WHILE))
    assert told and str(told.kind) == str(kind) and told.text


def test_a_phase_that_was_over_at_once_is_not_worth_a_message_of_its_end() -> None:
    assert of_event(Event(EventKind.DONE, 1.0, "unmount", seconds=A_WHILE / 2)) is None


def test_the_log_says_what_the_console_says() -> None:
    event = Event(EventKind.FAILED, 1.0, "unmount", "unmount /data", "it is busy", 2.0)
    told = of_event(event)
    assert told and (told.text, told.priority) == (as_text(event), Priority.WARNING)


def test_a_field_that_is_empty_is_not_there() -> None:
    assert message(Kind.NOTE, "text", phase="", step=None, entry="x").fields == (("KEXECD_ENTRY", "x"),)


def console(*events: Event, within: float = 0.0) -> list[str]:
    reader, writer = os.pipe()
    sinks = Sinks(text=(writer,), lines=(), within=within)
    for event in events:
        sinks(event)
    os.close(writer)
    with open(reader, encoding="utf-8", newline="") as file:
        return file.read().split("\r\n")[:-1]


COMMIT = Event(EventKind.COMMIT, 100.0, text="from here on")


def test_the_console_shows_the_phase_and_how_much_time_is_left() -> None:
    phase = Event(EventKind.PHASE, 103.25, "unmount", text="why")
    assert console(COMMIT, phase, within=10.0)[1] == "kexecd: unmount: 6.8 s are left"


def test_the_time_is_not_told_again_within_a_second() -> None:
    phases = [Event(EventKind.PHASE, 100.0 + after, "sync") for after in (0.0, PERIOD / 2, PERIOD)]
    told = console(COMMIT, *phases, within=10.0)
    assert told[1:] == ["kexecd: sync: 10.0 s are left", "kexecd: sync: 9.0 s are left"]


def test_nobody_is_told_the_end_of_a_phase_that_was_over_at_once() -> None:
    ends = [Event(EventKind.DONE, 101.0, "sync", seconds=seconds) for seconds in (A_WHILE / 2, A_WHILE)]
    assert console(*ends) == ["kexecd: sync: done, 0.10 s"]


def test_past_the_deadline_it_shows_how_late_it_is() -> None:
    assert console(COMMIT, Event(EventKind.PHASE, 112.0, "sync"), within=10.0)[1] == "kexecd: sync: 2.0 s late"


def test_before_the_commit_point_no_time_runs() -> None:
    assert console(Event(EventKind.PHASE, 1.0, "load", text="why"), within=10.0) == []


def test_the_log_hears_every_event() -> None:
    heard: list[Event] = []
    sinks = Sinks(text=(), lines=(), log=heard.append)
    sinks(COMMIT)
    assert heard == [COMMIT]
