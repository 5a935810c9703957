# SPDX-License-Identifier: MIT
"""Keeping what happened for the new boot: written in time, and never what holds a way down."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from kexecd import handoff
from kexecd.cli import keep
from kexecd.cli.keep import Chronicle, Keep
from kexecd.executor import Executor, RealClock
from kexecd.init import ascent
from kexecd.kernel import sysfs
from kexecd.model import Act, Event, EventKind, Phase, Plan, Way
from kexecd.report import down
from kexecd.report.down import PID_1
from kexecd.report.events import EVENTS_FILE, as_json
from kexecd.report.timeline import stages_of
from kexecd.report.up import Service


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/run/kexecd and /var/lib/kexecd, both in one place."""
    monkeypatch.setattr(keep, "RUN_DIR", str(tmp_path))
    monkeypatch.setattr(handoff, "STATE_DIR", str(tmp_path))
    return tmp_path


def walked(step: Keep) -> tuple[list[Event], float]:
    """The events of a plan that does nothing else, and its seconds."""
    events: list[Event] = []
    clock = RealClock()
    begin = clock.now()
    plan = Plan(Way.FAST, Act.KEXEC, 10.0, (Phase("sync", 12000, "", (step,), at_least=float("inf"), commit=True),))
    Executor(plan, emit=events.append, clock=clock).run()
    return events, clock.now() - begin


def test_the_events_until_then_are_on_the_disk_with_the_nonce_that_joins_them(here: Path) -> None:
    earlier = Event(EventKind.PLAN, sysfs.uptime(), text="fast, 10 s")
    (here / EVENTS_FILE).write_text(json.dumps(as_json(earlier)) + "\n", encoding="utf-8")
    pending = handoff.PendingHandoff("a nonce", sysfs.boot_id(), "6.1", "", "", Way.FAST, 0.0)
    handoff.write(pending, str(here))
    events, _ = walked(Keep(Way.FAST))
    assert not [event for event in events if event.kind in (EventKind.FAILED, EventKind.NOTE)]
    kept = down.read(str(here))
    assert kept is not None and (kept.nonce, kept.boot_id, kept.way) == ("a nonce", sysfs.boot_id(), Way.FAST)
    assert [event.text for event in kept.events] == ["fast, 10 s"]


def test_a_request_of_an_earlier_boot_lends_it_no_nonce(here: Path) -> None:
    handoff.write(handoff.PendingHandoff("old", "another boot", "6.1", "", "", Way.FAST, 0.0), str(here))
    walked(Keep(Way.NOW))
    kept = down.read(str(here))
    assert kept is not None and kept.nonce == ""


def test_a_disk_that_does_not_answer_holds_nobody(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> None:
        signal.pause()

    monkeypatch.setattr(down, "keep", hang)
    events, seconds = walked(Keep(Way.FAST))
    assert seconds < keep.PATIENCE + 1.5
    assert not [event for event in events if event.kind is EventKind.FAILED]
    (note,) = [event.text for event in events if event.kind is EventKind.NOTE]
    assert note.endswith("it did not end in time, ignoring")


def test_a_disk_that_is_full_is_told_and_holds_nobody(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(down, "keep", full)
    events, _ = walked(Keep(Way.FAST))
    assert [event.text for event in events if "No space left on device" in event.text]
    assert not [event for event in events if event.kind is EventKind.FAILED]


def told(here: Path) -> tuple[Event, ...]:
    return down.events(str(here))


def test_where_pid_1_takes_the_machine_down_its_services_are_a_phase(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(init: str, since: float) -> tuple[Service, ...]:
        assert init == "systemd"
        return (Service("postgresql.service", since, since + 1.5),)

    monkeypatch.setattr(ascent, "stopped", stopped)
    Chronicle().stopping("systemd")
    Chronicle().stopping("systemd")  # the daemon has seen it too
    Chronicle().stopped("systemd")
    assert [event.kind for event in told(here)] == [EventKind.PHASE, EventKind.QUIT, EventKind.DONE]
    (stage,) = stages_of(told(here))
    assert stage.span.name == PID_1 and [slow.name for slow in stage.slowest] == ["postgresql.service"]


def test_each_time_something_is_told_it_is_kept(here: Path) -> None:
    chronicle = Chronicle(fresh=True)
    chronicle.stopping("openrc")
    first = down.read(str(here))
    assert first is not None and len(first.events) == 1 and first.way is Way.ORDERLY
    chronicle.stopped("openrc")
    chronicle.keep()
    second = down.read(str(here))
    assert second is not None and second.events[-1].kind is EventKind.DONE


def test_a_way_down_that_begins_here_is_told_without_the_one_that_was_taken_back(here: Path) -> None:
    (here / EVENTS_FILE).write_text(json.dumps(as_json(Event(EventKind.NOTE, 1.0, text="taken back"))) + "\n")
    Chronicle(fresh=True)(Event(EventKind.PLAN, 2.0, text="orderly, 38 s"))
    assert [event.text for event in told(here)] == ["orderly, 38 s"]


def test_what_the_services_walk_is_no_other_way_down(here: Path) -> None:
    chronicle = Chronicle()
    for kind in (EventKind.PLAN, EventKind.PHASE, EventKind.VERDICT):
        chronicle(Event(kind, 1.0, "freeze"))
    assert [event.kind for event in told(here)] == [EventKind.PHASE]


def test_nobody_to_write_to_is_no_reason_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "RUN_DIR", "/nowhere")
    monkeypatch.setattr(handoff, "STATE_DIR", "/proc/nowhere")
    chronicle = Chronicle(fresh=True)
    chronicle.stopping("systemd")
    chronicle.stopped("none")
    chronicle.keep()
