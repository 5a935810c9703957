# SPDX-License-Identifier: MIT
"""The steps of a plan, walked by the real executor against a real holder: a veto, a freeze, a cancel, a death."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd import client
from kexecd.config.policy import IfLost, StateCarrier
from kexecd.errors import NotRestarted, Refusal, Unsupported
from kexecd.executor import Executor, RealClock
from kexecd.kernel import proc
from kexecd.liveupdate import keeper, outlook, steps
from kexecd.liveupdate.carrier import Fate, Forecast, Outlook, carrier
from kexecd.liveupdate.index import Carrier
from kexecd.liveupdate.memory import Lost
from kexecd.liveupdate.outlook import decision
from kexecd.model import Act, Context, Event, EventKind, LoadMethod, Phase, Plan, Running, State, Wait, Way
from tests.unit.liveupdate.holding import Holder, comes_to, content, holding, memfd

BY_FILE = Forecast(Carrier.FILE, "a test", 0.25)
AUTO, FILE = StateCarrier.AUTO, StateCarrier.FILE
CARRIED = Outlook(Fate.CARRIED, "both kernels speak it")


@pytest.fixture
def holder() -> Iterator[Holder]:
    with holding() as one:
        yield one


def by_file() -> Forecast:
    return BY_FILE


def walk(*phases: Phase, committed: bool = False) -> tuple[list[Event], tuple[str, ...]]:
    events: list[Event] = []
    plan = Plan(Way.FAST, Act.KEXEC, 10.0, phases)
    outcome = Executor(plan, emit=events.append, clock=RealClock(), committed=committed).run()
    return events, outcome.failures


def notes(events: list[Event]) -> list[str]:
    return [event.text for event in events if event.kind is EventKind.NOTE]


def state_of(holder: Holder) -> State:
    return steps.state(str(holder.run_dir))


def test_prepare_and_freeze_on_the_way_down_and_everything_is_there_afterwards(holder: Holder) -> None:
    run_dir = str(holder.run_dir)
    client.put("table", memfd(b"x" * 100000), path=holder.socket)
    events, failures = walk(steps.prepare_phase(run_dir, by_file))
    assert failures == ()
    assert notes(events)[0].startswith("1 memfd, 100000 bytes, in about ")
    assert state_of(holder) is State.PREPARED
    events, failures = walk(steps.freeze_phase(run_dir), committed=True)
    assert (failures, notes(events)) == ((), ["1 memfd, 100000 bytes, go by file: a test"])
    assert state_of(holder) is State.FROZEN
    holder.end()
    holder.start()
    assert state_of(holder) is State.UPDATED
    steps.finish(run_dir)
    assert state_of(holder) is State.NORMAL
    assert content(client.get("table", path=holder.socket) or -1) == b"x" * 100000


def test_what_a_plan_prints_says_what_carries_it_how_long_and_why() -> None:
    assert steps.PrepareState("/run", by_file).describe() == (
        "see that what applications have handed over can be carried, by file, in about 0.2 s: a test"
    )

    def panics() -> Forecast:
        raise Lost("cannot kexec", "it would panic")

    assert steps.PrepareState("/run", panics).describe().endswith("can be carried, it would panic")


def test_what_carries_it_is_decided_with_what_is_held_now(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = str(holder.run_dir)
    client.put("table", memfd(bytes(1 << 20)), path=holder.socket)
    walk(steps.prepare_phase(run_dir, by_file))  # which measures the disk
    told = decision(Act.KEXEC, "/boot/vmlinuz", "", LoadMethod.KEXEC_FILE_LOAD, run_dir)
    assert (told.carrier, told.seconds > 0) == (Carrier.FILE, True)
    assert told.why == "the running kernel has no live update, or it is not switched on"
    through = decision(Act.FIRMWARE, "", "", None, run_dir)
    assert through.why == "a restart through the firmware empties the memory"

    def panics(kernel: str, cmdline: str) -> Outlook:
        return Outlook(Fate.PANIC, f"{kernel} {cmdline}")

    monkeypatch.setattr(outlook, "outlook", panics)
    with pytest.raises(Unsupported, match="cannot kexec into /boot/vmlinuz"):
        decision(Act.KEXEC, "/boot/vmlinuz", "", LoadMethod.KEXEC_FILE_LOAD, run_dir)


def test_where_it_cannot_be_carried_the_restart_is_given_up(holder: Holder) -> None:
    huge = memfd()
    os.ftruncate(huge, 1 << 50)
    client.put("huge", huge, path=holder.socket)
    with pytest.raises(Lost) as no:
        walk(steps.prepare_phase(str(holder.run_dir), by_file))
    assert "may be written" in str(no.value)
    assert state_of(holder) is State.NORMAL
    os.ftruncate(huge, 1 << 51)


def test_unless_the_policy_goes_without_and_then_it_is_told(holder: Holder) -> None:
    huge = memfd()
    os.ftruncate(huge, 1 << 50)
    client.put("huge", huge, path=holder.socket)
    events, failures = walk(steps.prepare_phase(str(holder.run_dir), by_file, IfLost.GO))
    assert failures == ()
    assert notes(events)[0].endswith("going without, as kexecd.yaml has state.if-lost: go")


def test_a_machine_without_a_holder_restarts_as_ever(tmp_path: Path) -> None:
    run_dir = str(tmp_path)
    assert walk(steps.prepare_phase(run_dir, by_file), steps.freeze_phase(run_dir))[1] == ()
    steps.cancel(run_dir)
    assert steps.freeze_and_keep(run_dir) == ""
    assert steps.state(run_dir) is State.NORMAL


def test_a_holder_that_was_killed_with_something_in_its_hands_is_missed(holder: Holder) -> None:
    client.put("table", memfd(b"x"), path=holder.socket)
    holder.end()
    with pytest.raises(Lost) as no:
        walk(steps.prepare_phase(str(holder.run_dir), by_file))
    assert "their holder has ended, and with it 1 memfd that it held" in str(no.value)


def test_it_is_missed_although_another_holder_was_started_until_it_is_put_again_or_dropped(holder: Holder) -> None:
    run_dir, table = str(holder.run_dir), memfd(b"x")
    client.put("table", table, path=holder.socket)
    client.put("other", memfd(), path=holder.socket)
    holder.end()
    holder.start()
    with pytest.raises(Lost, match="other of user 0, and 1 more is not held any more, since its holder was killed"):
        walk(steps.prepare_phase(run_dir, by_file))
    with pytest.raises(client.NotDone, match="its holder was killed; whoever has it open still has it"):
        client.get("table", path=holder.socket)
    client.put("table", table, path=holder.socket)
    client.drop("other", path=holder.socket)
    assert walk(steps.prepare_phase(run_dir, by_file))[1] == ()


def test_a_holder_that_was_killed_with_nothing_in_its_hands_is_not(holder: Holder) -> None:
    client.put("table", memfd(b"x"), path=holder.socket)
    client.drop("table", path=holder.socket)
    holder.end()
    assert walk(steps.prepare_phase(str(holder.run_dir), by_file))[1] == ()


def test_a_holder_that_does_not_answer_is_given_up_in_time(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "ASKING", 0.3)
    client.put("table", memfd(b"x"), path=holder.socket)
    os.kill(holder.pid, signal.SIGSTOP)
    with pytest.raises(Lost, match="its holder has not answered within 0.2 s"):
        steps.ask(str(holder.run_dir), {"do": "status"}, seconds=0.2)
    phase = steps.prepare_phase(str(holder.run_dir), by_file)
    short = Phase(phase.name, phase.priority, phase.why, phase.steps, share=0.0, at_least=0.3)
    with pytest.raises(Lost):
        walk(short)


def test_a_later_step_that_fails_gives_everybody_his_memory_back(holder: Holder) -> None:
    table = memfd(b"x")
    client.put("table", table, path=holder.socket)

    class Vetoing:
        name = "veto"

        def describe(self) -> str:
            return "say no"

        def run(self, context: Context) -> Running:
            if context.deadline:
                raise RuntimeError("no")
            yield Wait(frozenset(), 0.0)

        def undo(self) -> None:
            pass

    veto = Phase("veto", 4999, "a test", (Vetoing(),))
    with pytest.raises(NotRestarted):
        walk(steps.prepare_phase(str(holder.run_dir), by_file), veto)
    assert state_of(holder) is State.NORMAL
    os.ftruncate(table, 1 << 20)


def test_on_an_inits_own_way_down_it_is_one_call(holder: Holder) -> None:
    client.put("table", memfd(b"x"), path=holder.socket)
    told = "1 memfd, 1 bytes, go by file: nothing was prepared"
    assert steps.freeze_and_keep(str(holder.run_dir)) == told
    assert state_of(holder) is State.FROZEN


def test_who_keeps_a_session_is_in_our_session_marked_and_holds_nothing_else() -> None:
    session = memfd(b"stands for it")
    pid = keeper.keep(session)
    try:
        os.kill(pid, signal.SIGTERM)
        assert comes_to(lambda: len(os.listdir(f"/proc/{pid}/fd")), 4)
        process = proc.read(pid)
        assert process is not None
        assert proc.argv0(process) == "@kexecd-state"
        assert os.getsid(pid) == os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        links = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
        assert links == {"0": "/dev/null", "1": "/dev/null", "2": "/dev/null", "3": "/memfd:test (deleted)"}
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("act", "outlook", "wanted", "method", "which", "why"),
    [
        (Act.KEXEC, CARRIED, AUTO, LoadMethod.KEXEC_FILE_LOAD, Carrier.MEMORY, "both kernels speak it"),
        (Act.FIRMWARE, CARRIED, AUTO, LoadMethod.KEXEC_FILE_LOAD, Carrier.FILE, "a restart through the"),
        (Act.KEXEC, CARRIED, FILE, LoadMethod.KEXEC_FILE_LOAD, Carrier.FILE, "kexecd.yaml says `carrier: file`"),
        (Act.KEXEC, CARRIED, AUTO, LoadMethod.KEXEC_TOOLS, Carrier.FILE, "the image was loaded by kexec-tools"),
        (Act.KEXEC, CARRIED, AUTO, None, Carrier.FILE, "nobody can tell how the image"),
        (Act.KEXEC, Outlook(Fate.LOST, "x"), AUTO, LoadMethod.KEXEC_FILE_LOAD, Carrier.FILE, "x"),
        (Act.KEXEC, Outlook(Fate.UNKNOWN, "y"), AUTO, LoadMethod.KEXEC_FILE_LOAD, Carrier.FILE, "y"),
    ],
)
def test_which_carries_it_is_told_with_the_reason(
    act: Act, outlook: Outlook, wanted: StateCarrier, method: LoadMethod | None, which: Carrier, why: str
) -> None:
    told = carrier(act, outlook, wanted=wanted, method=method, size=1 << 30, rate=float(1 << 28))
    assert told.carrier is which
    assert told.why.startswith(why)
    assert told.seconds == (4.0 if which is Carrier.FILE else 0.25)


def test_a_refusal_of_ours_is_one() -> None:
    assert issubclass(Lost, Refusal)
