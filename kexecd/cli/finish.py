# SPDX-License-Identifier: MIT
"""kexecctl finish: say how this boot came about, and call the hooks with `finish` if our kexec led to it; once a boot.

Where a kexec was asked for and did not lead here, it is settled here what became of that (kexecd.wayback.settle). Where
it did, that is left to `kexecctl confirm`, unless nobody is there who would.

What it says is meant for the log of the new boot: where a kexec was meant and there was none, the reason. As JSON:

    {"schema": 1, "finished": true, "how": "kexec", "reason": "...", "hooks": ["database", ...], "notes": ["...", ...]}

finished: whether the hooks were called now; how: kexecd.handoff.How; reason: of that, or why not. notes: what did not
go well and does not matter.
"""

from __future__ import annotations

import contextlib
from argparse import Namespace
from dataclasses import dataclass, field

from kexecd import handoff, state
from kexecd.cli import carry
from kexecd.cli.output import print_json, shown
from kexecd.cli.turn import wait_for
from kexecd.config.hook_rows import HookCall
from kexecd.config.hooks import read_hooks
from kexecd.config.policy import read_policy
from kexecd.errors import ExitCode, Refusal
from kexecd.executor import Executor, RealClock
from kexecd.handoff import Arrival, How, PendingHandoff
from kexecd.history import Outcome
from kexecd.kernel import sysfs
from kexecd.model import Act, Event, EventKind, Plan, State, Way
from kexecd.record import RUN_DIR
from kexecd.report import log
from kexecd.report.messages import Kind, Message, message
from kexecd.teardown.hooks import HookFacts, phases
from kexecd.wayback import oneshot, settle, usual

TURN = 60.0
"""Seconds to wait for somebody else who is at it."""


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
    # The lock: no restart begins while the last one is being finished. Another service may load at the same time.
    with wait_for(RUN_DIR, "finish the last restart", seconds=TURN):
        told = _Told()
        _settle_earlier(told)
        arrival = handoff.arrival()
        if state.is_finished(RUN_DIR):
            return _nothing(options, arrival, "the restart that led to this boot is finished already")
        if arrival.how is How.NOT_YET:
            return _nothing(options, arrival, f"this boot did not come by a kexec of ours: {arrival.reason}")
        failures = _call_hooks(arrival, told) if arrival.how is How.KEXEC else ()
        # After the hooks, so that a call that was cut short is made again; and whatever came of them, only once.
        state.finish(RUN_DIR, failures)
        try:
            carry.arrived()
        except Refusal as refusal:
            told.notes.append(refusal.sentence())
        if arrival.how is How.KEXEC and arrival.pending:
            _settle_this(arrival, arrival.pending, told)
        _measure(told)
    log.say(_arrived(arrival))
    if arrival.how is How.KEXEC:
        return _report(options, arrival, told, failures)
    why = arrival.pending.refused if arrival.pending else ""
    return _nothing(options, arrival, f"this boot did not come by a kexec of ours: {why or arrival.reason}", told.notes)


def _measure(told: _Told) -> None:
    """The metrics of what was settled here, where the policy wants them."""
    try:
        policy = read_policy()
        if policy.metrics_file:
            from kexecd.cli.metrics import updated  # late: most machines want none

            if trouble := updated(policy):
                told.notes.append(f"the metrics are not written: {trouble}")
    except Refusal as refusal:
        told.notes.append(f"the metrics are not written: {refusal.why}")


def _settle_earlier(told: _Told) -> None:
    """What became of an attempt that did not lead to this boot; and what did notes that it has come up."""
    try:
        handoff.arrived()
        attempt = settle.conclude()
    except OSError as error:
        told.notes.append(f"what became of the last restart is not written down, and later boots will tell: {error}")
        return
    if attempt and attempt.outcome is Outcome.FAILED:
        text = f"the kexec into {attempt.to_version or attempt.to_entry_id} failed: {attempt.reason}"
        hint = "it is denied until `kexecctl deny forgive`, and the next restart goes through the firmware"
        log.say(message(Kind.CAME_BACK, f"{text}; {hint}", nonce=attempt.nonce))
        told.notes.append(hint)
    pending = handoff.expected()
    if pending is None or pending.settled or not handoff.is_open_here(pending):
        once = oneshot.used_up()
        if once and attempt and not attempt.outcome.was_kexec:
            told.notes.append(f"the boot loader was told to boot {once} once: that restart has used it up")
    with contextlib.suppress(OSError):  # another time
        handoff.sweep()


def _settle_this(arrival: Arrival, pending: PendingHandoff, told: _Told) -> None:
    """Where nobody waits for this boot to show that it is good, having come up is enough."""
    if pending.limit and usual.enabled():
        return
    try:
        if arrival.as_planned:
            settle.confirmed(pending.nonce, settle.WELL)
        else:
            settle.failed(pending.nonce, f"Linux {arrival.release} came up, and {pending.to_version} was to")
    except OSError as error:
        told.notes.append(f"what became of this restart is not written down: {error}")


def _arrived(arrival: Arrival) -> Message:
    nonce, refused = (arrival.pending.nonce, arrival.pending.refused) if arrival.pending else ("", "")
    return message(Kind.ARRIVED, f"this boot: {arrival.sentence()}", how=arrival.how, nonce=nonce, refused=refused)


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
    names, came = ", ".join(told.done) or "there are no hooks that want to know", arrival.sentence()
    if options.json:
        if not failures:
            print_json({"finished": True, "how": arrival.how, "reason": came, "hooks": told.done, "notes": told.notes})
    else:
        for note in told.notes:
            print(f"note: {shown(note)}")
        print(f"this boot came by {came}")
    if failures:
        raise Refusal("the restart could not be finished", "; ".join(failures), instead="all other hooks have finished")
    if not options.json:
        print(f"finished: {names}")
    return ExitCode.OK


def _nothing(options: Namespace, arrival: Arrival, reason: str, notes: list[str] | None = None) -> ExitCode:
    if options.json:
        document = {"finished": False, "how": arrival.how, "reason": reason, "hooks": [], "notes": notes or []}
        print_json(document)
        return ExitCode.OK
    for note in notes or []:
        print(f"note: {shown(note)}")
    print(f"nothing to finish: {shown(reason)}")
    return ExitCode.OK
