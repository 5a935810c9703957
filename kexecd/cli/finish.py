# SPDX-License-Identifier: MIT
"""kexecctl finish: call the hooks with `finish`, once, in the boot that our kexec led to. As JSON:

    {"schema": 1, "finished": true, "reason": "...", "hooks": ["database", ...], "notes": ["...", ...]}

finished: whether the hooks were called now; reason: why, or why not. notes: what did not go well and does not matter.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from dataclasses import dataclass, field

from kexecd import handoff
from kexecd.cli.output import print_json, shown
from kexecd.config.hook_rows import HookCall
from kexecd.config.hooks import read_hooks
from kexecd.errors import ExitCode, Refusal
from kexecd.executor import Executor, RealClock
from kexecd.handoff import Arrival, How
from kexecd.kernel import files, sysfs
from kexecd.lock import hold
from kexecd.model import Act, Event, EventKind, Plan, State, Way
from kexecd.record import RUN_DIR
from kexecd.teardown.hooks import HookFacts, phases

MARKER = "finished.json"


@dataclass(slots=True)
class _Told:
    """What the hooks' phases tell: the steps that ended well, and the notes."""

    done: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if event.kind is EventKind.DONE and event.step:
            self.done.append(event.step.removeprefix(f"{HookCall.FINISH} hook "))
        elif event.kind is EventKind.NOTE:
            self.notes.append(event.text)


def finish(options: Namespace) -> ExitCode:
    # The lock: no restart begins while the last one is being finished.
    with hold(RUN_DIR, "finish the last restart"):
        arrival = handoff.arrival()
        if arrival.how is not How.KEXEC:
            return _nothing(options, f"this boot did not come by a kexec of ours: {arrival.reason}")
        if _is_finished(RUN_DIR):
            return _nothing(options, "the restart that led to this boot is finished already")
        told = _Told()
        failures = _call_hooks(arrival, told)
        # After the hooks, so that a call that was cut short is made again; and whatever came of them, only once.
        files.write_json(os.path.join(RUN_DIR, MARKER), {"boot_id": sysfs.boot_id(), "failures": list(failures)})
    return _report(options, arrival, told, failures)


def _call_hooks(arrival: Arrival, told: _Told) -> tuple[str, ...]:
    """Call them all; returns what failed."""
    pending = arrival.pending
    facts = HookFacts(
        way=pending.way if pending else Way.ORDERLY,
        act=Act.KEXEC,
        state=State.UPDATED,
        kernel="",
        version=arrival.release,
        cmdline=sysfs.running_cmdline(),
        within=0.0,
        nonce=pending.nonce if pending else "",
    )
    walk = phases(read_hooks(), HookCall.FINISH, facts, base=0, span=20000)
    # Committed: one that fails keeps none of the others from it.
    plan = Plan(facts.way, facts.act, 0.0, walk)
    return Executor(plan, emit=told, clock=RealClock(), committed=True).run().failures


def _report(options: Namespace, arrival: Arrival, told: _Told, failures: tuple[str, ...]) -> ExitCode:
    if not options.json:
        for note in told.notes:
            print(f"note: {shown(note)}")
    if failures:
        raise Refusal("the restart could not be finished", "; ".join(failures), instead="all other hooks have finished")
    names, came = ", ".join(told.done) or "there are no hooks that want to know", arrival.sentence()
    if options.json:
        print_json({"finished": True, "reason": came, "hooks": told.done, "notes": told.notes})
    else:
        print(f"finished: {names} ({came})")
    return ExitCode.OK


def _nothing(options: Namespace, reason: str) -> ExitCode:
    if options.json:
        print_json({"finished": False, "reason": reason, "hooks": [], "notes": []})
    else:
        print(f"nothing to finish: {reason}")
    return ExitCode.OK


def _is_finished(run_dir: str) -> bool:
    """Whether the marker is of this boot."""
    try:
        marker = json.loads(files.read_text(os.path.join(run_dir, MARKER)) or "null")
        return bool(marker["boot_id"] == sysfs.boot_id())
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
