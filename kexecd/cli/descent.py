# SPDX-License-Identifier: MIT
"""Walking the plan from a process that outlives whoever asked for it.

kexecctl itself sits in the session or the service that the plan ends. So the plan is walked by a child in a session and
a control group of its own, and kexecctl only shows the events for as long as it lives. Beside the walker waits its
standby (kexecd.standby): killed, the walker is replaced by it, which walks what is left in the next shorter way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum

from kexecd import state
from kexecd.cli import afterword, carry
from kexecd.cli.draft import Draft
from kexecd.cli.steps import refusal_from
from kexecd.config.policy import OnDirty
from kexecd.control import Door
from kexecd.errors import ExitCode, NotRestarted, Refusal
from kexecd.executor import UNDONE, Executor, RealClock, steps_of, undo
from kexecd.init import finish
from kexecd.kernel import cgroup
from kexecd.model import Act, Event, EventKind, Phase, State, Step, Verdict, Way
from kexecd.record import RUN_DIR
from kexecd.report.events import EVENTS_FILE, Sinks, open_quietly
from kexecd.report.log import open_log
from kexecd.standby import Standby
from kexecd.teardown.workers import keep_workers, left_behind
from kexecd.wayback import watchdog

NUL = b"\0"
"""Before how it ends; no event has one in it."""

END = NUL + b"\n"
PART = 1 << 16  # bytes of one read


class Attempt(IntEnum):
    """What a walker still tries, where the one before it was killed or got stuck."""

    WHOLE = 0  # the plan
    REST = 1  # what comes after the commit point, again: what has been done already takes no time
    HURRY = 2  # close the disks
    BARE = 3  # restart through the firmware: whatever is left is what kills us


Watcher = Callable[[int, bool], bool]
"""Has somebody else do watch() with these, who was there before; False where nobody is there any more."""

_watcher: Watcher | None = None


def watched_by(watcher: Watcher) -> None:
    """From now on it is this process itself that goes down: it is nobody's caller, and all that it needs is there."""
    global _watcher  # noqa: PLW0603
    _watcher = watcher


def go_down(draft: Draft, *, force: bool, as_json: bool) -> ExitCode:
    """Walk the plan to the irreversible act. Comes back with the reason if it was given up, else only for a while."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if (_watcher and _watcher(reader, as_json)) or os.fork() == 0:
        try:
            os.close(reader)
            keep_workers()
            Descent(draft, force=force, watcher=writer, as_json=as_json).walk(Attempt.WHOLE)
        finally:
            os._exit(ExitCode.FAILURE)
    os.close(writer)
    os.chdir("/")  # spared as we are, we must not hold a filesystem by where we were started
    return watch(reader, as_json=as_json)


class Descent:
    """watcher: a pipe to whoever asked; it gets the events, as JSON or as text, and behind a NUL how it ends: nothing,
    or the Refusal. Text, because whoever shows it takes the processor from us, and has not to take JSON apart."""

    def __init__(self, draft: Draft, *, force: bool, watcher: int, as_json: bool) -> None:
        self._draft, self._force, self._watcher = draft, force, watcher
        self._clock = RealClock()
        _detach()
        os.set_blocking(watcher, False)
        events = open_quietly(os.path.join(RUN_DIR, EVENTS_FILE), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        console, within = open_quietly("/dev/console", os.O_WRONLY), draft.plan.within
        lines, plain = ((*events, watcher), ()) if as_json else (events, (watcher,))
        self._sinks = Sinks(text=console, lines=lines, plain=plain, log=open_log(), within=within)
        self._door: Door | None = None
        self._told = ""  # what was done last, and what came of it

    def walk(self, attempt: Attempt) -> None:
        """Returns when the restart was given up, or left to PID 1."""
        standby = None
        if attempt is Attempt.WHOLE:
            self._door = Door(RUN_DIR)
        if attempt < Attempt.BARE:
            standby = Standby(
                self._give_back,
                lambda end: self._take_over(end, Attempt(attempt + 1)),
                committed=attempt is not Attempt.WHOLE,
            )
        plan = replace(self._draft.plan, phases=self._phases(attempt))
        executor = Executor(
            plan,
            emit=self._emit,
            clock=self._clock,
            witness=standby,
            control=self._door,
            committed=attempt is not Attempt.WHOLE,
        )
        if attempt is Attempt.WHOLE:
            for warning in self._draft.warnings:
                self._note(warning)
        try:
            result = executor.run()
        except Refusal as refusal:
            _report(self._watcher, refusal)
        except BaseException as error:
            # A bug of ours. Once somebody has been asked to quit, the standby goes on from here.
            if executor.committed:
                import traceback  # late: only for a bug

                self._note(f"kexecd failed: {traceback.format_exc()}")
                os._exit(ExitCode.FAILURE)
            executor.give_up()
            _report(self._watcher, NotRestarted("the restart was given up", f"kexecd failed: {error!r}"))
        else:
            if result.committed:
                act = result.act(plan.act, jump_when_dirty=self._jump_when_dirty)
                self._finish(act, attempt, standby, result.verdict)
            self._tell(f"{self._draft.init.name} takes this machine down now, into {self._draft.going_to}")
        if self._door:
            self._door.close()
        if standby:
            standby.over()

    @property
    def _jump_when_dirty(self) -> bool:
        return self._force or self._draft.policy.on_dirty is OnDirty.KEXEC

    def _phases(self, attempt: Attempt) -> tuple[Phase, ...]:
        plan = self._draft.plan
        match attempt:
            case Attempt.WHOLE:
                return plan.phases
            case Attempt.HURRY if plan.hurry:
                return plan.hurry
            case Attempt.REST | Attempt.HURRY:  # a plan that hurries already knows no shorter way
                first = next(number for number, phase in enumerate(plan.phases) if phase.commit)
                return plan.phases[first:]
            case Attempt.BARE:
                return ()

    def _finish(self, act: Act, attempt: Attempt, standby: Standby | None, verdict: Verdict) -> None:
        if attempt is Attempt.BARE:
            act = Act.FIRMWARE
        if act is not self._draft.plan.act:
            self._note("no kexec: the machine is not clean, it restarts through the firmware")
        if act is Act.KEXEC and (said := watchdog.leave_running(RUN_DIR)):
            self._note(said)
        if standby:
            standby.last()
        if act is not self._draft.plan.act and (said := carry.written_after_all()):
            self._note(said)
        if act is not self._draft.plan.act:
            self._tell_next_boot(f"the machine was not clean: {verdict.sentence()}")
        # A sync of PID 1's own would hang where ours has.
        alone = self._draft.plan.way is Way.NOW or bool(left_behind())
        finish.finish(
            self._draft.init,
            act,
            alone=alone,
            tell=self._tell,
            fallen=lambda: self._tell_next_boot(f"the jump did not come about: {self._told}"),
        )

    def _tell_next_boot(self, why: str) -> None:
        if not left_behind():  # else a disk does not answer, and would not then
            afterword.write(why, self._note)

    def _give_back(self, begun: tuple[int, ...]) -> None:
        """In the standby, when the walker was killed before the commit point."""
        steps = steps_of(self._draft.plan)
        undo([steps[number] for number in begun], self._say, lambda: None)
        if self._door:
            self._door.close()
        _report(self._watcher, NotRestarted("the restart was given up", "kexecd was killed", instead=UNDONE))

    def _take_over(self, end: str, attempt: Attempt) -> None:
        """In the standby, when the walker was killed after it."""
        self._note(f"{end}: the standby goes on")
        self.walk(attempt)

    def _tell(self, text: str) -> None:
        self._told = text
        self._emit(Event(EventKind.ACT, self._clock.now(), text=text))
        with contextlib.suppress(OSError):  # nobody waits for it any more
            os.write(self._watcher, END)

    def _note(self, text: str) -> None:
        self._emit(Event(EventKind.NOTE, self._clock.now(), text=text))

    def _say(self, kind: EventKind, step: Step | None, text: str) -> None:
        self._emit(Event(kind, self._clock.now(), step=step.name if step else "", text=text))

    def _emit(self, event: Event) -> None:
        self._sinks(event)
        if event.kind is EventKind.STATE:
            plan, loaded = self._draft.plan, self._draft.seen is not None
            with contextlib.suppress(OSError):  # what nobody can read afterwards stops nothing
                state.reached(State(event.text), plan.way, plan.act, loaded=loaded, run_dir=RUN_DIR)


def _report(watcher: int, refusal: Refusal) -> None:
    told = {"refused": refusal.as_json(), "errno": refusal.errno, "exit": refusal.exit_code}
    with contextlib.suppress(OSError):  # nobody waits for it any more
        os.write(watcher, NUL + json.dumps(told).encode() + b"\n")


def _detach() -> None:
    """Away from the caller's session, control group, terminal and signals."""
    if os.getsid(0) != os.getpid():  # else it leads one, and is in that of no caller
        os.setsid()
    os.chdir("/")
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    cgroup.leave()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("-1000")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def watch(reader: int, *, as_json: bool) -> ExitCode:
    """Print what is told until it is said how it ends. Raises the Refusal, if it was given up."""
    rest = b""
    while part := os.read(reader, PART):
        *lines, rest = (rest + part).split(b"\n")
        end = next((number for number, line in enumerate(lines) if NUL in line), len(lines))
        told = [line for line in lines[:end] if not as_json or _is_whole(line)]
        sys.stdout.write("".join(f"{line.decode(errors='replace')}\n" for line in told))
        sys.stdout.flush()
        if lines[end:]:
            record = lines[end].rpartition(NUL)[2]
            if record:
                raise refusal_from(json.loads(record))
            return ExitCode.OK
    raise NotRestarted("the restart was not finished", "the process that walked the plan has ended", instead="unknown")


def _is_whole(line: bytes) -> bool:
    """Not longer than what the pipe had room for: the one who writes does not wait."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
