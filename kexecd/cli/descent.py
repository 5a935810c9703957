# SPDX-License-Identifier: MIT
"""Walking the plan from a process that outlives whoever asked for it.

kexecctl itself sits in the session or the service that the plan ends. So the plan is walked by a child in a session and
a control group of its own, and kexecctl only shows the events for as long as it lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable

from kexecd.cli.draft import Draft
from kexecd.config.policy import OnDirty
from kexecd.errors import ExitCode, NotRestarted, Refusal
from kexecd.executor import Executor, RealClock
from kexecd.init.finish import finish
from kexecd.kernel import cgroup
from kexecd.model import Act, Event, EventKind, Way
from kexecd.record import RUN_DIR
from kexecd.report.events import EVENTS_FILE, Sinks, as_text, open_quietly, parse

REFUSED = "refused"


def go_down(draft: Draft, options: Namespace, take_back: Callable[[], None]) -> ExitCode:
    """Walk the plan to the irreversible act. Comes back with the reason if it was given up, else only for a while."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        os.close(reader)
        try:
            _descend(draft, force=options.force, take_back=take_back, watcher=writer)
        finally:
            os._exit(ExitCode.FAILURE)
    os.close(writer)
    return _watch(reader, as_json=options.json)


def _descend(draft: Draft, *, force: bool, take_back: Callable[[], None], watcher: int) -> None:
    _detach()
    events = open_quietly(os.path.join(RUN_DIR, EVENTS_FILE), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.set_blocking(watcher, False)
    emit = Sinks(text=open_quietly("/dev/console", os.O_WRONLY), lines=(*events, watcher))
    clock = RealClock()

    def tell(text: str) -> None:
        emit(Event(EventKind.ACT, clock.now(), text=text))

    alone = draft.plan.way is Way.NOW
    executor = Executor(draft.plan, emit=emit, clock=clock)
    try:
        jump_when_dirty = force or draft.policy.on_dirty is OnDirty.KEXEC
        result = executor.run()
        act = result.act(draft.plan.act, jump_when_dirty=jump_when_dirty)
        if act is not draft.plan.act:
            tell("no kexec: the machine is not clean, it restarts through the firmware")
        finish(draft.init, act, alone=alone, force=jump_when_dirty, tell=tell)
    except NotRestarted as refusal:
        take_back()
        _report(watcher, refusal)
    except BaseException as error:
        if not executor.committed:  # nothing has been asked to quit yet
            take_back()
            _report(watcher, NotRestarted("the restart was given up", f"kexecd failed: {error!r}"))
            return
        # A bug of ours, at a moment when there may be nobody left: the machine still has to come back.
        tell(f"kexecd failed, restarting through the firmware: {traceback.format_exc()}")
        finish(draft.init, Act.FIRMWARE, alone=False, force=True, tell=tell)


def _report(watcher: int, refusal: Refusal) -> None:
    os.write(watcher, (json.dumps({REFUSED: refusal.as_json(), "exit": refusal.exit_code}) + "\n").encode())


def _detach() -> None:
    """Away from the caller's session, control group, terminal and signals."""
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


def _watch(reader: int, *, as_json: bool) -> ExitCode:
    """Print what is told until nobody tells any more."""
    with open(reader, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # longer than what the pipe had room for; the one who writes does not wait
                continue
            if REFUSED in record:
                raise _refusal(record[REFUSED], record["exit"])
            event = parse(record)
            if as_json:
                print(line, end="", flush=True)
            elif text := as_text(event):
                print(text, flush=True)
            if event.kind is EventKind.ACT:
                return ExitCode.OK
    raise NotRestarted("the restart was not finished", "the process that walked the plan has ended", instead="unknown")


def _refusal(told: dict[str, str], exit_code: int) -> Refusal:
    return Refusal(told["what"], told["why"], instead=told["instead"], hint=told["hint"], exit_code=ExitCode(exit_code))
