# SPDX-License-Identifier: MIT
"""The executor with a clock that only moves when somebody waits: hours in milliseconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import pytest

from kexecd.errors import BadImage, NotRestarted
from kexecd.executor import OVERTIME, PULSE, Control, Executor, RealClock, Result, Witness
from kexecd.model import (
    Act,
    Ask,
    Context,
    Event,
    EventKind,
    Left,
    Phase,
    Plan,
    Running,
    State,
    Step,
    Verdict,
    Wait,
    Way,
)

Body = Callable[[Context], Generator[Wait, frozenset[int], None]]


class FakeClock:
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def wait(self, fds: frozenset[int], until: float) -> frozenset[int]:
        assert until < 1e9, "a wait without a deadline"
        self.time = max(self.time, until)
        return frozenset()


@dataclass
class Scripted:
    """A step that does what the test says."""

    name: str
    body: Body | None = None
    log: list[str] = field(default_factory=list)

    def describe(self) -> str:
        return f"do {self.name}"

    def run(self, context: Context) -> Running:
        self.log.append(f"run {self.name}")
        if self.body:
            yield from self.body(context)
        else:
            yield from ()

    def undo(self) -> None:
        self.log.append(f"undo {self.name}")


def sleeps(seconds: float) -> Body:
    def body(context: Context) -> Generator[Wait, frozenset[int], None]:
        end = context.now() + seconds
        while context.now() < end:
            yield Wait(frozenset(), end)

    return body


def fails(why: str) -> Body:
    def body(context: Context) -> Generator[Wait, frozenset[int], None]:
        yield Wait(frozenset(), context.now())
        raise OSError(5, why)

    return body


def clean(context: Context) -> Generator[Wait, frozenset[int], None]:
    context.verdict = Verdict()
    yield from ()


def phase(name: str, *steps: Step, **options: float | bool | State) -> Phase:
    return Phase(name, 0, "", steps, **options)  # type: ignore[arg-type]


def execute(*phases: Phase, within: float = 10.0) -> tuple[Result, list[Event], FakeClock]:
    events: list[Event] = []
    clock = FakeClock()
    result = Executor(Plan(Way.FAST, Act.KEXEC, within, phases), emit=events.append, clock=clock).run()
    return result, events, clock


def test_phases_run_in_order_and_the_steps_of_one_at_the_same_time() -> None:
    log: list[str] = []
    _, _, clock = execute(
        phase("first", Scripted("a", sleeps(2), log), Scripted("b", sleeps(3), log)),
        phase("second", Scripted("c", sleeps(1), log)),
    )
    assert log == ["run a", "run b", "run c"]
    assert clock.time == pytest.approx(104)  # the longer of the first two, and the third


def test_a_failure_before_the_commit_point_undoes_everything_last_first() -> None:
    log: list[str] = []
    with pytest.raises(NotRestarted, match="b: .*no room"):
        execute(
            phase("first", Scripted("a", None, log)),
            phase("second", Scripted("b", fails("no room"), log)),
            phase("third", Scripted("c", None, log), commit=True),
        )
    assert log == ["run a", "run b", "undo b", "undo a"]


def test_a_failure_after_the_commit_point_stops_nothing_and_is_reported() -> None:
    log: list[str] = []
    result, events, _ = execute(
        phase("down", Scripted("a", fails("no room"), log), commit=True),
        phase("verdict", Scripted("b", clean, log)),
    )
    assert log == ["run a", "run b"]
    assert result.failures and "no room" in result.failures[0]
    assert [event.step for event in events if event.kind is EventKind.FAILED] == ["a"]


def test_a_step_that_overstays_is_ended_and_the_next_phase_follows() -> None:
    log: list[str] = []
    result, _, clock = execute(
        phase("down", Scripted("stuck", sleeps(1e6), log), commit=True),
        phase("verdict", Scripted("look", clean, log)),
        within=10,
    )
    assert clock.time == pytest.approx(110 + OVERTIME)
    assert result.failures == (f"stuck: did not end within {10 + OVERTIME:.1f} s",)
    assert log[-1] == "run look"


def test_an_overstaying_step_before_the_commit_point_is_undone() -> None:
    log: list[str] = []
    with pytest.raises(NotRestarted, match="did not end"):
        execute(phase("first", Scripted("stuck", sleeps(1e6), log)))
    assert log == ["run stuck", "undo stuck"]


def test_a_phase_gets_its_share_of_the_time_that_is_left() -> None:
    deadlines: list[float] = []

    def look(context: Context) -> Generator[Wait, frozenset[int], None]:
        deadlines.append(context.deadline - context.now())
        yield from ()

    execute(
        phase("a", Scripted("a", look), share=0.5),
        phase("b", Scripted("b", sleeps(4))),
        phase("c", Scripted("c", look), share=0.5),
    )
    assert deadlines == pytest.approx([5, 3])


def test_disks_are_closed_however_late_it_is() -> None:
    deadlines: list[float] = []

    def look(context: Context) -> Generator[Wait, frozenset[int], None]:
        deadlines.append(context.deadline - context.now())
        yield from ()

    execute(
        phase("a", Scripted("a", sleeps(1e6)), commit=True),
        phase("b", Scripted("b", look), at_least=7.0),
    )
    assert deadlines == pytest.approx([7])


def test_a_plan_in_which_nobody_looked_is_not_clean() -> None:
    result, _, _ = execute(phase("down", Scripted("a"), commit=True))
    assert result.verdict.dirt


@pytest.mark.parametrize(
    ("verdict", "wanted", "anyway", "act"),
    [
        (Verdict(), Act.KEXEC, False, Act.KEXEC),
        (Verdict(residue=(Left("/net", "is mounted"),)), Act.KEXEC, False, Act.KEXEC),
        (Verdict(dirt=(Left("/", "is writable"),)), Act.KEXEC, False, Act.FIRMWARE),
        (Verdict(dirt=(Left("/", "is writable"),)), Act.KEXEC, True, Act.KEXEC),
        (Verdict(), Act.FIRMWARE, False, Act.FIRMWARE),
    ],
)
def test_a_dirty_machine_restarts_through_the_firmware(verdict: Verdict, wanted: Act, anyway: bool, act: Act) -> None:
    assert Result(verdict, ()).act(wanted, jump_when_dirty=anyway) is act


def test_a_step_is_woken_by_its_own_descriptor() -> None:
    reader, writer = os.pipe()
    woken: list[frozenset[int]] = []

    def body(context: Context) -> Generator[Wait, frozenset[int], None]:
        os.write(writer, b"x")
        woken.append((yield Wait(frozenset((reader,)), context.now() + 60)))

    plan = Plan(Way.FAST, Act.KEXEC, 60, (phase("a", Scripted("a", body), Scripted("b", None)),))
    Executor(plan, emit=lambda event: None, clock=RealClock()).run()
    assert woken == [frozenset((reader,))]
    os.close(reader)
    os.close(writer)


def test_what_is_described_is_what_is_told_when_it_runs() -> None:
    steps = [Scripted("a"), Scripted("b")]
    _, events, _ = execute(phase("x", *steps))
    assert [event.text for event in events if event.kind is EventKind.STEP] == [step.describe() for step in steps]


@dataclass
class Question:
    ask: Ask
    by: str = "process 7"
    answers: list[tuple[bool, str]] = field(default_factory=list)

    def answer(self, done: bool, text: str) -> None:
        self.answers.append((done, text))


class Asked(Control):
    """Somebody asks as soon as a step waits, so many waits later."""

    def __init__(self, question: Question, after: int = 0) -> None:
        self.question, self.after = question, after

    def take(self, readable: frozenset[int]) -> list[Question]:
        self.after -= 1
        return [self.question] if self.after == -1 else []


def asked(ask: Ask, *phases: Phase, hurry: tuple[Phase, ...] = (), after: int = 0) -> tuple[Question, list[Event]]:
    events: list[Event] = []
    question = Question(ask)
    plan = Plan(Way.FAST, Act.KEXEC, 10.0, phases, hurry)
    Executor(plan, emit=events.append, clock=FakeClock(), control=Asked(question, after)).run()
    return question, events


def test_cancelled_before_the_commit_point_it_undoes_everything_and_then_says_so() -> None:
    log: list[str] = []
    question = Question(Ask.CANCEL)
    phases = (phase("first", Scripted("a", None, log)), phase("second", Scripted("b", sleeps(1), log)))
    plan = Plan(Way.FAST, Act.KEXEC, 10.0, phases)
    events: list[Event] = []
    with pytest.raises(NotRestarted, match="cancelled by process 7"):
        Executor(plan, emit=events.append, clock=FakeClock(), control=Asked(question)).run()
    assert log == ["run a", "run b", "undo b", "undo a"]
    assert [done for done, _ in question.answers] == [True]
    assert events[-1].kind is EventKind.STATE and events[-1].text == State.NORMAL


def test_cancelled_after_it_nothing_is_undone_and_the_answer_says_why() -> None:
    log: list[str] = []
    question, _ = asked(
        Ask.CANCEL,
        phase("down", Scripted("a", sleeps(1), log), commit=True),
        phase("verdict", Scripted("b", clean, log)),
    )
    assert log == ["run a", "run b"]
    assert question.answers[0][0] is False and "commit point" in question.answers[0][1]


def test_now_skips_what_is_left_and_walks_the_hurried_phases() -> None:
    log: list[str] = []
    question, events = asked(
        Ask.NOW,
        phase("down", Scripted("slow", sleeps(5), log), commit=True),
        phase("skipped", Scripted("never", None, log)),
        hurry=(phase("close", Scripted("close", clean, log)),),
    )
    assert log == ["run slow", "run close"]
    assert question.answers == [(True, "nobody is asked any more")]
    assert events[-1].at < 105 + 1


def test_now_waits_for_what_there_can_be_no_jump_without() -> None:
    log: list[str] = []
    asked(
        Ask.NOW,
        phase("load", Scripted("load", sleeps(3), log), essential=True, at_least=10.0),
        phase("record", Scripted("record", sleeps(1), log), essential=True, at_least=10.0),
        phase("hooks", Scripted("hooks", sleeps(1), log)),
        hurry=(phase("close", Scripted("close", clean, log), commit=True),),
    )
    assert log == ["run load", "run record", "run close"]


def test_a_hurry_cannot_be_hurried() -> None:
    question, _ = asked(
        Ask.NOW, phase("down", Scripted("a", sleeps(1)), commit=True), phase("verdict", Scripted("b", clean))
    )
    assert question.answers[0][0] is False  # this plan knows no shorter way


def test_a_plan_that_leaves_the_going_down_to_pid_1_ends_prepared_and_without_a_verdict() -> None:
    events: list[Event] = []
    plan = Plan(Way.ORDERLY, Act.KEXEC, 10.0, (phase("hand over", Scripted("ask"), reaches=State.PREPARED),))
    result = Executor(plan, emit=events.append, clock=FakeClock()).run()
    assert not result.committed
    assert [event.text for event in events if event.kind is EventKind.STATE] == ["prepared"]
    assert not [event for event in events if event.kind is EventKind.VERDICT]


def test_a_refusal_of_a_step_is_passed_on_as_it_is() -> None:
    def refuses(context: Context) -> Generator[Wait, frozenset[int], None]:
        yield Wait(frozenset(), context.now())
        raise BadImage("cannot boot it", "it is truncated")

    log: list[str] = []
    with pytest.raises(BadImage, match="truncated"):
        execute(phase("first", Scripted("a", refuses, log)))
    assert log == ["run a", "undo a"]


def test_the_deadline_counts_from_the_commit_point() -> None:
    """What was loaded and asked before it took as long as it took."""
    left: list[float] = []

    def look(context: Context) -> Generator[Wait, frozenset[int], None]:
        left.append(context.deadline - context.now())
        yield from clean(context)

    execute(
        phase("load", Scripted("load", sleeps(60)), share=0.0, at_least=120.0),
        phase("down", Scripted("look", look), commit=True),
    )
    assert left == pytest.approx([10.0])


def test_the_witness_hears_every_step_and_the_commit_point() -> None:
    heard: list[object] = []

    class Listening(Witness):
        def begun(self, step: int) -> None:
            heard.append(step)

        def committed(self) -> None:
            heard.append("committed")

        def alive(self) -> None:
            heard.append("alive")

    plan = Plan(
        Way.FAST,
        Act.KEXEC,
        100.0,
        (phase("a", Scripted("a"), Scripted("b")), phase("c", Scripted("c", sleeps(PULSE * 3)), commit=True)),
    )
    Executor(plan, emit=lambda event: None, clock=FakeClock(), witness=Listening()).run()
    assert [word for word in heard if word != "alive"] == [0, 1, "committed", 2]
    assert heard.count("alive") >= 3, "a long step is no silence"
