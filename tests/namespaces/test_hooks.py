# SPDX-License-Identifier: MIT
"""Calling real hooks: agreeing, refusing, hanging, forking, flooding ones, each with a deadline."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

import pytest

from kexecd import handoff, record
from kexecd.cli.finish import finish
from kexecd.config.hook_rows import HookCall, OnFailure
from kexecd.config.hooks import DIRECTORY, Hook, find_hooks
from kexecd.errors import BadConfig, ExitCode, NotRestarted, Refusal
from kexecd.executor import Executor, RealClock
from kexecd.handoff import PendingHandoff
from kexecd.kernel import spawn
from kexecd.kernel.guard import TEST_VARIABLES
from kexecd.model import NONCE_KEY, Act, Event, EventKind, Phase, Plan, State, Way
from kexecd.teardown.hooks import CHARACTERS, HookFacts, HookFailed, RunHook, phases
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import alive, command, eventually, notes

FACTS = HookFacts(
    way=Way.FAST,
    act=Act.KEXEC,
    state=State.NORMAL,
    kernel="/boot/vmlinuz-6.12.9",
    version="6.12.9",
    cmdline='root=/dev/sda1 quiet name="ä b"',
    within=20.0,
    nonce="0123456789abcdef",
)


ONCE = (HookCall.PREPARE,)


def hook(
    directory: Path,
    body: str,
    *,
    name: str = "it",
    priority: int = 10000,
    timeout: float = 10.0,
    on_failure: OnFailure = OnFailure.VETO,
    calls: Iterable[HookCall] = tuple(HookCall),
) -> Hook:
    """A shell script as a hook."""
    file = directory / f"{name}.sh"
    file.write_text(f"#!/bin/sh\ncd {directory}\n{body}\n", encoding="utf-8")
    file.chmod(0o755)
    path = str(file)
    return Hook(
        name=name,
        command=(path,),
        priority=priority,
        timeout=timeout,
        on_failure=on_failure,
        calls=frozenset(calls),
        origin=path,
    )


def call(*hooks: Hook, what: HookCall = HookCall.PREPARE, within: float = 20.0) -> list[Event]:
    """Walk the phases of these hooks, before the commit point; raises NotRestarted."""
    return walk(phases(hooks, what, FACTS, base=1000, span=4000), within=within)


def walk(found: tuple[Phase, ...], *, within: float = 20.0, events: list[Event] | None = None) -> list[Event]:
    events = [] if events is None else events
    Executor(Plan(Way.FAST, Act.KEXEC, within, found), emit=events.append, clock=RealClock()).run()
    return events


def vetoed(*hooks: Hook, within: float = 20.0) -> str:
    with pytest.raises(NotRestarted) as refusal:
        call(*hooks, within=within)
    return refusal.value.why


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def gone(*pids: int) -> bool:
    return not any(alive(pid) for pid in pids)


def pids(file: Path) -> list[int]:
    return [int(word) for word in read(file).split()]


# What a hook is told


@isolated
def test_a_hook_is_told_the_same_in_its_environment_and_on_its_input(tmp_path: Path) -> None:
    call(hook(tmp_path, "cat > input; env > environment; pwd -P > /dev/null"))
    told = json.loads(read(tmp_path / "input"))
    assert told.pop("schema") == 1
    assert told == {
        "call": "prepare",
        "hook": "it",
        "state": "normal",
        "way": "fast",
        "act": "kexec",
        "kernel": "/boot/vmlinuz-6.12.9",
        "version": "6.12.9",
        "cmdline": 'root=/dev/sda1 quiet name="ä b"',
        "nonce": "0123456789abcdef",
        "within": 20.0,
        "deadline": 10.0,
    }
    lines = dict(line.split("=", 1) for line in read(tmp_path / "environment").splitlines())
    given = {key: value for key, value in lines.items() if key.startswith("KEXECD_") and key != "KEXECD_UNDER_TEST"}
    assert given == {f"KEXECD_{key.upper()}": str(value) for key, value in told.items()}
    assert set(lines) - set(given) <= {"PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_", *TEST_VARIABLES}


@isolated
def test_the_deadline_that_it_is_told_is_its_own_or_what_is_left_of_the_restarts(tmp_path: Path) -> None:
    body = "echo $KEXECD_DEADLINE > deadline-$KEXECD_CALL"
    call(hook(tmp_path, body, timeout=7))
    assert float(read(tmp_path / "deadline-prepare")) == 7.0
    call(hook(tmp_path, body, timeout=70), what=HookCall.FREEZE, within=5)
    assert 4.0 < float(read(tmp_path / "deadline-freeze")) <= 5.0


@isolated
def test_a_hook_inherits_nothing_of_ours_but_what_it_is_told(tmp_path: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the way down has it
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.umask(0o077)
    os.dup2(os.open("/", os.O_RDONLY), 77, inheritable=True)
    seen = "grep -E '^Sig(Blk|Ign)' /proc/self/status > signals; umask > umask; ls /proc/$$/fd > fds"
    call(hook(tmp_path, f"{seen}; ps -o sid= -p $$ > session; echo $$ >> session"))
    masks = [int(mask, 16) for mask in re.findall(r"\t(\w+)", read(tmp_path / "signals"))]
    # 32 and 33 are glibc's own, which nobody can set but glibc; whoever started us may have had them ignored.
    assert [mask & ~(3 << 31) for mask in masks] == [0, 0]
    assert read(tmp_path / "umask").strip() == "0022"
    assert "77" not in read(tmp_path / "fds").split()
    session, own = read(tmp_path / "session").split()
    assert session == own


@isolated
def test_a_hook_is_not_protected_from_the_oom_killer_as_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every place where tests run permits a score below 0, so a file stands in for it."""
    score = tmp_path / "oom_score_adj"
    monkeypatch.setattr(spawn, "OOM_SCORE_ADJ", str(score))
    for ours, its in (("-1000", "0"), ("200", "200")):
        score.write_text(ours, encoding="ascii")
        call(hook(tmp_path, "exit 0"))
        assert read(score) == its


@isolated
def test_one_that_never_reads_or_closes_its_input_agrees_all_the_same(tmp_path: Path) -> None:
    call(hook(tmp_path, "exec <&-; echo done > done"))
    call(hook(tmp_path, "exit 0"))
    assert read(tmp_path / "done") == "done\n"


# Agreeing, refusing, warning


@isolated
def test_one_that_agrees_says_nothing(tmp_path: Path) -> None:
    events = call(hook(tmp_path, "echo all is well"))
    assert notes(events) == ""
    assert EventKind.FAILED not in {event.kind for event in events}


@isolated
def test_a_veto_gives_up_the_restart_with_the_last_lines_of_its_output(tmp_path: Path) -> None:
    body = 'for i in 1 2 3 4 5 6 7 8 9; do echo "line $i"; done; printf "the tape \\033[2Jis\\tfull\\n\\n" >&2; exit 3'
    assert vetoed(hook(tmp_path, body)) == (
        "prepare hook it: it ended with exit status 3, "
        r"saying: line 6 | line 7 | line 8 | line 9 | the tape \x1b[2Jis\tfull"
    )


@isolated
def test_of_a_long_line_the_end_is_shown(tmp_path: Path) -> None:
    why = vetoed(hook(tmp_path, "head -c 5000 /dev/zero | tr '\\0' x; printf '\\377the end'; exit 1"))
    said = why.partition("saying: ")[2]
    assert said.startswith("...xxx") and said.endswith("\N{REPLACEMENT CHARACTER}the end")
    assert len(said) == CHARACTERS + 3


@isolated
def test_one_that_is_ended_by_a_signal_did_not_agree(tmp_path: Path) -> None:
    assert vetoed(hook(tmp_path, "kill -SEGV $$")) == "prepare hook it: it was ended by signal SIGSEGV"


@isolated
def test_one_that_only_warns_is_told_and_the_restart_goes_on(tmp_path: Path) -> None:
    events = call(hook(tmp_path, "echo no tape; exit 1", on_failure=OnFailure.WARN))
    assert notes(events) == "prepare hook it: it ended with exit status 1, saying: no tape, ignoring"


@isolated
def test_after_the_commit_point_a_failure_is_told_and_the_others_are_called(tmp_path: Path) -> None:
    failing = hook(tmp_path, "exit 1", name="a", priority=0)
    saving = hook(tmp_path, "echo saved > saved", name="b", priority=20000)
    found = phases((failing, saving), HookCall.FREEZE, FACTS, base=0, span=100)
    events: list[Event] = []
    plan = Plan(Way.FAST, Act.KEXEC, 10, found)
    result = Executor(plan, emit=events.append, clock=RealClock(), committed=True).run()
    assert result.failures == ("freeze hook a: it ended with exit status 1",)
    assert read(tmp_path / "saved") == "saved\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"#!/nowhere/sh\n", "no such file or directory (is the interpreter of its first line there?)"),
        (b"#!/bin/sh\r\n", "no such file or directory (is the interpreter of its first line there?)"),
        (b"echo no first line\n", "exec format error"),
        (None, "no such file or directory (is the interpreter of its first line there?)"),
    ],
)
@isolated
def test_one_that_cannot_be_started_is_named(tmp_path: Path, content: bytes | None, why: str) -> None:
    one = hook(tmp_path, "")
    if content is None:
        os.unlink(one.origin)
    else:
        Path(one.origin).write_bytes(content)
    said = f"{one.origin} could not be started: {why}"
    assert vetoed(one) == f"prepare hook it: {said}"
    with pytest.raises(HookFailed) as failure:
        RunHook(one, HookCall.PREPARE, FACTS).undo()
    assert str(failure.value) == said


# Hanging


@isolated
def test_one_that_hangs_is_killed_with_everything_that_it_has_started(tmp_path: Path) -> None:
    body = "echo begun; for i in 1 2 3; do sleep 1000 & echo $! >> pids; done; echo $$ >> pids; wait"
    begin = time.monotonic()
    why = vetoed(hook(tmp_path, body, timeout=1, calls=ONCE))
    assert time.monotonic() - begin < 8
    assert why == "prepare hook it: it did not end within 1 s and was killed, saying: begun"
    eventually(lambda: gone(*pids(tmp_path / "pids")), seconds=5)
    assert len(pids(tmp_path / "pids")) == 4


@isolated
def test_one_that_ignores_term_is_killed_too_and_its_children_with_it(tmp_path: Path) -> None:
    begin = time.monotonic()
    vetoed(hook(tmp_path, "trap '' TERM; sleep 1000 & echo $! $$ > pids; wait; sleep 1000", timeout=1, calls=ONCE))
    assert time.monotonic() - begin < 8
    eventually(lambda: gone(*pids(tmp_path / "pids")), seconds=5)


@isolated
def test_one_whose_child_ignores_term_does_not_leave_it_behind(tmp_path: Path) -> None:
    body = "(trap '' TERM; exec sleep 1000) & echo $! > pids; wait"
    vetoed(hook(tmp_path, body, timeout=1, calls=ONCE))
    eventually(lambda: gone(*pids(tmp_path / "pids")), seconds=5)


@isolated
def test_one_that_has_stopped_itself_is_woken_to_clean_up(tmp_path: Path) -> None:
    body = "trap 'echo cleaned > cleaned; exit' TERM; kill -STOP $$; echo on > on"
    vetoed(hook(tmp_path, body, timeout=1, calls=ONCE))
    assert read(tmp_path / "cleaned") == "cleaned\n" and not (tmp_path / "on").exists()


@isolated
def test_one_that_ends_well_but_too_late_did_not_agree(tmp_path: Path) -> None:
    body = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done"
    why = vetoed(hook(tmp_path, body, timeout=1, calls=ONCE))
    assert "it did not end within 1 s and was killed, saying: " in why and why.endswith("bye")


@isolated
def test_before_the_commit_point_its_own_timeout_counts_whatever_the_deadline_is(tmp_path: Path) -> None:
    call(hook(tmp_path, "sleep 2", timeout=10), within=0.5)


@isolated
def test_freezing_ends_with_the_deadline_whatever_its_own_timeout_is(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(NotRestarted) as refusal:
        call(hook(tmp_path, "sleep 1000", timeout=300), what=HookCall.FREEZE, within=1.5)
    assert time.monotonic() - begin < 8
    assert "did not end within 1.5 s" in refusal.value.why


@isolated
def test_freezing_gets_a_moment_even_when_the_deadline_has_passed(tmp_path: Path) -> None:
    call(hook(tmp_path, "sleep 0.3; echo saved > saved"), what=HookCall.FREEZE, within=0)
    assert read(tmp_path / "saved") == "saved\n"


@isolated
def test_a_child_that_it_leaves_running_holds_nobody(tmp_path: Path) -> None:
    begin = time.monotonic()
    call(hook(tmp_path, "sleep 1000 & echo $! > pids"))
    assert time.monotonic() - begin < 8
    os.kill(pids(tmp_path / "pids")[0], signal.SIGKILL)


@isolated
def test_100_mib_of_output_cost_neither_memory_nor_the_last_line(tmp_path: Path) -> None:
    much = "head -c 104857600 /dev/zero | tr '\\0' x | fold -w 1000; echo"
    flood = hook(tmp_path, f"{much}; echo 'the tape is full'; exit 3", calls=ONCE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory_before = available()
    why = vetoed(flood)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert why.endswith(" | the tape is full") and len(why) < CHARACTERS + 100
    assert grown < 16, f"{grown:.0f} MiB more"
    assert memory_before - available() < 64, "somebody keeps the output"


@isolated
def test_one_that_never_stops_talking_is_ended_in_time_and_keeps_nobody_else(tmp_path: Path) -> None:
    talking = hook(tmp_path, "exec yes", name="a", timeout=4, on_failure=OnFailure.WARN)
    quick = hook(tmp_path, "echo $(cut -d' ' -f1 /proc/uptime) > when", name="b")
    begin = time.clock_gettime(time.CLOCK_BOOTTIME)
    events = call(talking, quick)
    done = next(event for event in events if event.kind is EventKind.DONE and event.step == "prepare hook b")
    assert done.at - begin < 3
    assert time.clock_gettime(time.CLOCK_BOOTTIME) - begin < 8
    assert "it did not end within 4 s and was killed, saying: y | y | y | y | y, ignoring" in notes(events)


@isolated
def test_waiting_for_one_that_has_closed_its_output_costs_nothing(tmp_path: Path) -> None:
    before = time.process_time()
    call(hook(tmp_path, "exec >&- 2>&-; sleep 1"))
    assert time.process_time() - before < 0.3


def available() -> float:
    """MiB"""
    found = re.search(r"MemAvailable:\s+(\d+)", read(Path("/proc/meminfo")))
    assert found
    return int(found[1]) / 1024


# Order


@isolated
def test_two_of_one_priority_run_at_the_same_time(tmp_path: Path) -> None:
    """Each waits for the other: one after the other, neither would end."""
    for name in ("one", "two"):
        os.mkfifo(tmp_path / name)
    call(
        hook(tmp_path, "echo here > one; cat two", name="a", timeout=5),
        hook(tmp_path, "cat one; echo here > two", name="b", timeout=5),
    )


@isolated
def test_priorities_run_one_after_the_other(tmp_path: Path) -> None:
    names = [f"h{number:02}" for number in range(6)]
    made = [
        hook(tmp_path, f"echo {name} begins >> log; sleep 0.1; echo {name} ends >> log", name=name, priority=number * 9)
        for number, name in enumerate(names)
    ]
    call(*reversed(made))
    assert read(tmp_path / "log").splitlines() == [f"{name} {what}" for name in names for what in ("begins", "ends")]


def test_each_priority_is_a_phase_and_cancel_goes_backwards(tmp_path: Path) -> None:
    made = [
        hook(tmp_path, "", name="late", priority=20000, timeout=30),
        hook(tmp_path, "", name="early", priority=0, calls=[HookCall.PREPARE, HookCall.CANCEL]),
        hook(tmp_path, "", name="b"),
        hook(tmp_path, "", name="a", timeout=3),
    ]

    def shown(what: HookCall) -> list[tuple[str, int, list[str], float]]:
        found = phases(made, what, FACTS, base=1000, span=3999)
        return [
            (phase.name, phase.priority, [step.name.split()[-1] for step in phase.steps], phase.at_least)
            for phase in found
        ]

    assert shown(HookCall.PREPARE) == [
        ("prepare hooks", 1000, ["early"], 10),
        ("prepare hooks", 2999, ["a", "b"], 10),
        ("prepare hooks", 4999, ["late"], 30),
    ]
    assert shown(HookCall.FREEZE) == [("freeze hooks", 2999, ["a", "b"], 1), ("freeze hooks", 4999, ["late"], 1)]
    assert [names for _, _, names, _ in shown(HookCall.CANCEL)] == [["late"], ["a", "b"], ["early"]]
    assert phases((), HookCall.PREPARE, FACTS, base=0, span=1) == ()


def test_a_hook_describes_what_it_will_do() -> None:
    executable = Hook(name="backup", command=("/etc/kexecd/hooks.d/50-backup",), origin="/etc/kexecd/hooks.d/50-backup")
    row = Hook(name="b", command=("/bin/b", "-x\x1b"), origin="f:3", timeout=2.5, on_failure=OnFailure.WARN)
    assert RunHook(executable, HookCall.PREPARE, FACTS).describe() == (
        "prepare hook backup (/etc/kexecd/hooks.d/50-backup), 10 s, veto"
    )
    assert RunHook(row, HookCall.PREPARE, FACTS).describe() == r"prepare hook b (/bin/b -x\x1b, f:3), 2.5 s, warn"
    assert RunHook(row, HookCall.FREEZE, FACTS).describe() == r"freeze hook b (/bin/b -x\x1b, f:3), 2.5 s"


# Undoing

LOGS = "echo $KEXECD_HOOK $KEXECD_CALL $KEXECD_STATE >> log"


@isolated
def test_when_one_vetoes_every_one_that_was_called_is_cancelled_last_first(tmp_path: Path) -> None:
    made = (
        hook(tmp_path, LOGS, name="a", priority=0),
        hook(tmp_path, LOGS, name="b", priority=1),
        hook(tmp_path, f"{LOGS}; [ $KEXECD_CALL = cancel ]", name="c", priority=2),
        hook(tmp_path, LOGS, name="d", priority=3),
    )
    vetoed(*made)
    assert read(tmp_path / "log").splitlines() == [
        *("a prepare normal", "b prepare normal", "c prepare normal"),
        *("c cancel prepared", "b cancel prepared", "a cancel prepared"),
    ]


@isolated
def test_one_that_was_killed_half_way_is_cancelled_too(tmp_path: Path) -> None:
    """The others of its phase are killed when one vetoes; each has to expect cancel at any point."""
    os.mkfifo(tmp_path / "both")
    begun = "echo $$ > pids; echo > both; sleep 1000"
    slow = hook(tmp_path, f"{LOGS}; [ $KEXECD_CALL = cancel ] || {{ {begun}; }}", name="a")
    vetoing = hook(tmp_path, "[ $KEXECD_CALL = cancel ] || { cat both; exit 1; }", name="b")
    begin = time.monotonic()
    assert vetoed(slow, vetoing).startswith("prepare hook b: ")
    assert time.monotonic() - begin < 8
    assert read(tmp_path / "log").splitlines() == ["a prepare normal", "a cancel prepared"]
    assert gone(*pids(tmp_path / "pids"))


@isolated
def test_one_without_the_call_cancel_is_left_alone(tmp_path: Path) -> None:
    vetoed(hook(tmp_path, f"{LOGS}; exit 1", calls=[HookCall.PREPARE]))
    assert read(tmp_path / "log").splitlines() == ["it prepare normal"]


@isolated
def test_undoing_any_call_but_prepare_does_nothing(tmp_path: Path) -> None:
    one = hook(tmp_path, LOGS)
    for what in (HookCall.FREEZE, HookCall.CANCEL, HookCall.FINISH):
        RunHook(one, what, FACTS).undo()
    assert not (tmp_path / "log").exists()


@isolated
def test_it_can_be_undone_by_another_process_that_never_ran_it(tmp_path: Path) -> None:
    step = RunHook(hook(tmp_path, LOGS), HookCall.PREPARE, FACTS)
    child = os.fork()
    if child == 0:
        step.undo()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert read(tmp_path / "log").splitlines() == ["it cancel prepared"]


@isolated
def test_a_cancel_that_fails_or_hangs_is_told_and_holds_nobody(tmp_path: Path) -> None:
    failing = hook(tmp_path, "echo stuck; exit 1", name="a", priority=0)
    hanging = hook(tmp_path, "[ $KEXECD_CALL = cancel ] && sleep 1000; exit 1", name="b", priority=1, timeout=1)
    warning = hook(tmp_path, "exit 1", name="c", priority=0, on_failure=OnFailure.WARN)
    events: list[Event] = []
    begin = time.monotonic()
    with pytest.raises(NotRestarted):
        walk(phases((failing, hanging, warning), HookCall.PREPARE, FACTS, base=0, span=9), events=events)
    assert time.monotonic() - begin < 8
    told = notes(events)
    assert "could not be undone: it ended with exit status 1" in told
    first = [event for event in events if event.kind is EventKind.FAILED][0]
    assert first.step == "prepare hook a"
    assert events[-1].text == State.NORMAL


# Starting programs


@isolated
def test_one_on_a_filesystem_that_does_not_answer_holds_only_its_own_child(tmp_path: Path) -> None:
    """A FUSE filesystem whose server never answers; exec there sleeps in the kernel."""
    dead = dead_filesystem(tmp_path)
    begin = time.monotonic()
    started = spawn.start([f"{dead}/hook"])
    assert time.monotonic() - begin < 8
    assert not started.wait(0.5)
    assert started.kill(0.2).exit_code < 0
    one = Hook(name="it", command=(f"{dead}/hook",), timeout=1, origin=f"{dead}/hook")
    assert vetoed(one) == "prepare hook it: it did not end within 1 s and was killed"
    assert time.monotonic() - begin < 8


@isolated
def test_a_hook_on_such_a_filesystem_is_not_even_asked_for(tmp_path: Path) -> None:
    own_etc(tmp_path)
    dead = dead_filesystem(Path("/run"))
    install("20-there", "").unlink()
    Path(DIRECTORY, "20-there").symlink_to(f"{dead}/hook")
    Path("/etc/kexecd/kexecd.yaml").write_text(f"hooks: [{{name: a, command: [{dead}/hook]}}]", encoding="utf-8")
    begin = time.monotonic()
    with pytest.raises(BadConfig) as refusal:
        find_hooks()
    assert time.monotonic() - begin < 8
    assert refusal.value.why.count(f"it is on {dead}, which is fuse and may not answer") == 2


def dead_filesystem(directory: Path) -> Path:
    device = os.open("/dev/fuse", os.O_RDWR)
    point = directory / "dead"
    point.mkdir()
    command_with(device, f"mount -i -t fuse -o fd={device},rootmode=40000,user_id=0,group_id=0 dead {point}")
    return point


def command_with(fd: int, line: str) -> None:
    assert spawn.run(["/bin/sh", "-c", line], seconds=10, pass_fds=[fd]).exit_code == 0


@isolated
def test_a_program_that_cannot_be_started_is_an_error_with_its_path() -> None:
    for path, kind in (("/nowhere/it", FileNotFoundError), ("/etc/passwd", PermissionError), ("/etc", PermissionError)):
        with pytest.raises(kind) as error:
            spawn.run([path], seconds=5)
        assert error.value.filename == path
    with pytest.raises(OSError):
        spawn.run(["/bin/echo", "a\0b"], seconds=5)


@isolated
def test_input_larger_than_any_pipe_does_not_block_us_when_nobody_reads_it() -> None:
    data = b"x" * (1 << 20)
    begin = time.monotonic()
    held = spawn.start(["/bin/sleep", "1000"], stdin=data)
    assert time.monotonic() - begin < 8
    held.kill()
    assert spawn.run(["/usr/bin/wc", "-c"], seconds=10, stdin=data).output.strip() == str(len(data))
    assert spawn.run(["/usr/bin/wc", "-c"], seconds=10).output.strip() == "0"


@isolated
def test_no_descriptor_and_no_zombie_is_left_by_a_thousand_programs_of_every_kind() -> None:
    def begin(number: int) -> None:
        if number % 4 == 0:
            spawn.run(["/bin/true"], seconds=5)
        elif number % 4 == 1:
            with pytest.raises(FileNotFoundError):
                spawn.run(["/nowhere"], seconds=5, stdin=b"x")
        elif number % 4 == 2:
            spawn.start(["/bin/sleep", "1000"], listen=True).kill()
        else:
            spawn.start(["/bin/sleep", "1000"], stdin=b"x").kill(0)

    before = len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        begin(number)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@isolated
def test_one_that_is_killed_before_it_has_begun_is_gone() -> None:
    for _ in range(200):
        started = spawn.start(["/bin/sleep", "1000"])
        started.end()
        assert started.wait(5)
        assert started.finish().exit_code == -signal.SIGKILL


# On a machine of its own: /etc, /run and the new boot


@isolated
def test_only_hooks_that_root_alone_decides_about_are_taken(tmp_path: Path) -> None:
    own_etc(tmp_path)
    install("50-backup", "exit 0")
    assert [hook.name for hook in find_hooks().hooks] == ["backup"]
    for path, uid, mode in ((f"{DIRECTORY}/50-backup", 0, 0o777), (DIRECTORY, 1000, 0o755), ("/etc", 0, 0o777)):
        before = os.stat(path)
        os.chown(path, uid, -1)
        os.chmod(path, mode)
        with pytest.raises(BadConfig) as refusal:
            find_hooks()
        assert f"{path} cannot be trusted" in refusal.value.why and path in refusal.value.hint
        command("/bin/sh", "-c", refusal.value.hint)
        os.chmod(path, before.st_mode & 0o7777)
        assert [hook.name for hook in find_hooks().hooks] == ["backup"]


@isolated
def test_a_link_into_a_directory_that_anybody_may_write_to_is_refused(tmp_path: Path) -> None:
    own_etc(tmp_path)
    target = Path("/run/anybody/hook")
    target.parent.mkdir()
    target.parent.chmod(0o1777)
    target.write_text("#!/bin/sh\n", encoding="utf-8")
    target.chmod(0o755)
    Path(DIRECTORY, "50-backup").symlink_to(target)
    with pytest.raises(BadConfig, match=r"/run/anybody cannot be trusted: others than root .* \(mode 1777\)"):
        find_hooks()


@isolated
def test_finish_calls_the_hooks_once_in_a_boot_that_we_led_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrive(tmp_path)
    install("20-b", "cat > /run/b.json; echo b >> /run/log")
    install("10-a", "echo a >> /run/log")
    options = Namespace(json=True)
    assert finish(options) is ExitCode.OK
    said = json.loads(capsys.readouterr().out)
    assert (said["finished"], said["hooks"]) == (True, ["a", "b"])
    told = json.loads(read(Path("/run/b.json")))
    assert (told["call"], told["state"], told["way"], told["nonce"]) == ("finish", "updated", "fast", "c0ffee")
    assert told["cmdline"] == f"root=/dev/vda {NONCE_KEY}=c0ffee" and told["version"] == os.uname().release
    assert finish(options) is ExitCode.OK
    assert json.loads(capsys.readouterr().out)["finished"] is False
    assert read(Path("/run/log")).splitlines() == ["a", "b"]


@isolated
def test_a_marker_of_another_boot_says_nothing_about_this_one(tmp_path: Path) -> None:
    arrive(tmp_path)
    install("10-a", "echo a >> /run/log")
    os.makedirs(record.RUN_DIR)
    for content in ('{"boot_id": "another"}', "{", "[]"):
        Path(record.RUN_DIR, "finished.json").write_text(content, encoding="utf-8")
        finish(Namespace(json=False))
    assert read(Path("/run/log")).splitlines() == ["a"] * 3


@isolated
def test_a_hook_that_fails_to_finish_keeps_no_other_from_it_and_is_told(tmp_path: Path) -> None:
    arrive(tmp_path)
    install("10-a", "echo no luck; exit 1")
    install("20-b", "echo b >> /run/log")
    with pytest.raises(Refusal) as refusal:
        finish(Namespace(json=False))
    assert refusal.value.exit_code is ExitCode.FAILURE
    assert "finish hook a: it ended with exit status 1, saying: no luck" in refusal.value.why
    assert read(Path("/run/log")) == "b\n"
    assert finish(Namespace(json=False)) is ExitCode.OK, "it is told once"


@isolated
def test_a_boot_that_we_did_not_lead_to_has_nothing_to_finish(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrive(tmp_path, nonce="another")
    install("10-a", "echo a >> /run/log")
    assert finish(Namespace(json=False)) is ExitCode.OK
    assert "\nnothing to finish: this boot did not come by a kexec of ours" in capsys.readouterr().out
    assert not Path("/run/log").exists()


@isolated
def test_the_example_of_the_documentation_does_what_it_says(tmp_path: Path) -> None:
    text = read(Path(__file__).parents[2] / "docs" / "hooks.md")
    example = text.partition("```sh\n")[2].partition("```")[0]
    file = tmp_path / "50-cache"
    file.write_text(example.replace("/var/lib/cache", f"{tmp_path}/cache"), encoding="utf-8")
    file.chmod(0o755)
    one = Hook(name="cache", command=(str(file),), origin=str(file))
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "busy").touch()
    assert vetoed(one) == "prepare hook cache: it ended with exit status 1, saying: a rebuild is under way"
    (cache / "busy").unlink()
    call(one)
    assert (cache / "closed").exists()
    RunHook(one, HookCall.PREPARE, FACTS).undo()
    assert not (cache / "closed").exists()
    for what in (HookCall.PREPARE, HookCall.FREEZE):
        call(one, what=what)
    assert read(cache / "state") == "6.12.9\n"
    call(one, what=HookCall.FINISH)
    assert not (cache / "closed").exists()


def own_etc(tmp_path: Path) -> None:
    """/etc is the machine's own below, and this test's above; so is /run, and empty."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "upper").chmod(0o755)
    layers = f"lowerdir=/etc,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    command("mount", "-t", "overlay", "-o", layers, "overlay", "/etc")
    command("mount", "-t", "tmpfs", "-o", "mode=755", "run", "/run")
    os.makedirs(DIRECTORY, exist_ok=True)


def install(name: str, body: str) -> Path:
    file = Path(DIRECTORY, name)
    file.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    file.chmod(0o755)
    return file


def arrive(tmp_path: Path, *, nonce: str = "c0ffee") -> None:
    """A boot that came by a kexec with this nonce, after one with c0ffee was asked for."""
    own_etc(tmp_path)
    command("mount", "-t", "tmpfs", "-o", "mode=755", "lib", "/var/lib")
    pending = PendingHandoff("c0ffee", "another boot", "6.1.0", "id", "", Way.FAST, time.time() - 60)
    handoff.write(pending)
    (tmp_path / "cmdline").write_text(f"root=/dev/vda {NONCE_KEY}={nonce}\n", encoding="utf-8")
    command("mount", "--bind", tmp_path / "cmdline", "/proc/cmdline")
