# SPDX-License-Identifier: MIT
"""Who was slow to quit, and how slow, is told of real processes, by a step that is walked for real."""

from __future__ import annotations

import pytest

from kexecd.model import Event, EventKind
from kexecd.teardown.processes import SLOWEST, QuitProcesses
from kexecd.teardown.watched import FEW
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import application, walk

ENDS_LATER = """
def later(*_):
    time.sleep(float(sys.argv[1]))
    os._exit(0)
signal.signal(signal.SIGTERM, later); ready()
while True: signal.pause()
"""
IGNORES_TERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready()\nwhile True: signal.pause()"


def told(events: list[Event]) -> dict[int, float]:
    """Seconds by pid."""
    quits = [event for event in events if event.kind is EventKind.QUIT]
    return {int(event.text.rpartition("(")[2].rstrip(")")): event.seconds for event in quits}


@isolated
def test_each_of_a_few_is_told_with_its_own_time_whoever_was_asked_last() -> None:
    times = (1.2, 0.3, 0.6)
    pids = [application(ENDS_LATER, str(seconds)) for seconds in times]
    _, events, _ = walk(QuitProcesses(5.0))
    found = told(events)
    assert set(found) == set(pids)
    for pid, seconds in zip(pids, times, strict=True):
        assert found[pid] == pytest.approx(seconds, abs=0.25), found


@isolated
def test_who_had_to_be_killed_took_the_whole_grace() -> None:
    pid = application(IGNORES_TERM)
    _, events, _ = walk(QuitProcesses(0.7))
    assert told(events)[pid] == pytest.approx(0.7, abs=0.3)


@isolated
def test_of_many_the_slowest_are_told_and_each_end_is_where_its_event_says() -> None:
    slow = [application(ENDS_LATER, str(0.9 + number / 20)) for number in range(3)]
    for _ in range(FEW + 4):
        application(ENDS_LATER, "0.1")
    _, events, _ = walk(QuitProcesses(5.0))
    quits = [event for event in events if event.kind is EventKind.QUIT]
    found = told(events)
    assert len(quits) == SLOWEST and set(slow) <= set(found)
    assert [event.seconds for event in quits] == sorted((event.seconds for event in quits), reverse=True)
    begin = next(event.at for event in events if event.kind is EventKind.STEP)
    for event in quits:
        assert begin - 0.1 <= event.at - event.seconds <= begin + 1.0
