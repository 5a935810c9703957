# SPDX-License-Identifier: MIT
"""From records to one axis: what comes when, how long it took, and what nobody can tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kexecd.model import Event, EventKind, Way
from kexecd.report.clock import By
from kexecd.report.timeline import PID_1_CLOSES, Part, build, stages_of
from kexecd.report.up import Marks
from tests.unit.report import sample


def test_the_parts_follow_each_other_without_a_hole() -> None:
    parts = sample.timeline().parts
    assert [part for part, _ in parts] == list(Part)
    for (_, before), (_, after) in zip(parts, parts[1:], strict=False):
        assert before.end == pytest.approx(after.begin)
    assert parts[0][1].begin == 0.0


def test_the_gap_lasts_from_the_last_event_to_the_new_kernels_start() -> None:
    gap = sample.timeline().gap
    assert gap is not None and gap.by is By.COUNTER
    assert gap.span.seconds == pytest.approx(1.71) and gap.error == pytest.approx(0.00312)
    assert gap.before == ("sync", "unmount", "read-only", "verdict")
    assert gap.least < gap.span.seconds < gap.most


def test_the_downtime_is_from_the_commit_point_to_the_usual_services() -> None:
    timeline = sample.timeline()
    assert timeline.committed == pytest.approx(0.13)
    assert timeline.downtime == pytest.approx(31.75 - 24.9 + 14.8 - 0.13)
    assert timeline.confirmed == pytest.approx(31.75 - 24.9 + 16.2)


def test_where_pid_1_takes_the_machine_down_it_goes_down_when_that_begins_to_stop_services() -> None:
    orderly = replace(sample.down(), way=Way.ORDERLY, events=sample.events()[3:4] + sample.events()[5:-2])
    timeline = build(orderly, sample.up(), kexec=True, to_come=("record", "hand over"))
    assert timeline.committed == pytest.approx(0.02)
    assert timeline.gap is not None and timeline.gap.before == (PID_1_CLOSES,)


def test_a_phase_that_was_not_over_lasts_until_the_last_event_and_one_with_a_failure_says_so() -> None:
    stages = {stage.span.name: stage for stage in sample.timeline().stages}
    assert stages["sync"].span.seconds == pytest.approx(0.01)
    assert stages["processes"].span.failed and stages["processes"].span.text == "left behind: nfsd (99)"
    assert not stages["applications"].span.failed


def test_the_slowest_processes_are_in_the_phase_in_which_they_quit_slowest_first() -> None:
    stages = {stage.span.name: stage for stage in sample.timeline().stages}
    slow = stages["applications"].slowest
    assert [one.name for one in slow][:2] == ["postgres (812)", "redis-server (813)"]
    assert slow[0].begin == pytest.approx(1.6) and slow[0].end == pytest.approx(3.7)


def test_a_phase_that_is_walked_twice_is_there_twice() -> None:
    def phase(at: float) -> tuple[Event, ...]:
        return (Event(EventKind.PHASE, at, "sync"), Event(EventKind.DONE, at + 1, "sync"))

    stages = stages_of((Event(EventKind.PLAN, 10.0), *phase(11.0), *phase(13.0)))
    assert [(stage.span.begin, stage.span.end) for stage in stages] == [(1.0, 2.0), (3.0, 4.0)]


def test_without_a_record_of_the_way_down_the_axis_begins_with_the_kernel() -> None:
    timeline = build(None, sample.up(), kexec=True)
    assert timeline.parts[0][0] is Part.KERNEL and timeline.parts[0][1].begin == 0.0
    assert timeline.gap is None and timeline.downtime is None and timeline.committed is None


def test_a_clock_that_puts_the_new_kernel_before_the_last_event_makes_no_gap_below_zero() -> None:
    up = sample.up()
    early = replace(up, moment=replace(up.moment, hertz=0.0, hardware=None, realtime=up.moment.realtime - 10))
    gap = build(sample.down(), early, kexec=True).gap
    assert gap is not None and gap.span.seconds == 0.0 and gap.by is By.UNKEPT


def test_without_an_initrd_the_kernel_lasts_until_the_init() -> None:
    up = replace(sample.up(), marks=Marks(userspace=3.0, ready=9.0))
    assert [part for part, _ in build(None, up, kexec=False).parts] == [Part.KERNEL, Part.USERSPACE, Part.CHECKS]


def test_what_nobody_can_tell_is_part_of_what_came_before_it() -> None:
    up = replace(sample.up(None), marks=Marks())
    ((part, span),) = build(None, up, kexec=False).parts
    assert part is Part.KERNEL and span.end == up.moment.boottime


def test_of_an_old_boot_nobody_says_when_it_was_over_if_nobody_knows() -> None:
    up = replace(sample.up(None), marks=Marks(userspace=3.0), moment=replace(sample.up().moment, boottime=9e5))
    assert [part for part, _ in build(None, up, kexec=False).parts] == [Part.KERNEL]


def test_a_boot_that_was_confirmed_before_its_init_was_done_has_no_checks_behind_it() -> None:
    parts = build(None, sample.up(10.0), kexec=False).parts
    assert parts[-1][0] is Part.USERSPACE and parts[-1][1].end == pytest.approx(14.8)


def test_an_empty_record_is_a_way_down_of_no_time() -> None:
    timeline = build(replace(sample.down(), events=()), sample.up(), kexec=True)
    down = timeline.part(Part.DOWN)
    assert down is not None and down.seconds == 0.0 and timeline.stages == ()
