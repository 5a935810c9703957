# SPDX-License-Identifier: MIT
"""kexecctl report: how this boot came about, from what, why not by kexec if not, and how long each part took."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace

from kexecd import handoff, history
from kexecd.cli.output import local_time, print_json, shown
from kexecd.errors import ExitCode, NotPermitted
from kexecd.handoff import Arrival, How, PendingHandoff
from kexecd.history import Attempt, Outcome
from kexecd.init import ascent
from kexecd.init.detect import detect
from kexecd.kernel import sysfs
from kexecd.report import clock, down, up
from kexecd.report.story import Story, as_json, head, lines
from kexecd.report.timeline import build
from kexecd.report.up import Up
from kexecd.report.words import seconds

LONGEST_WORD = 11  # characters in the first column of what comes first


def report(options: Namespace) -> ExitCode:
    story = gather()
    if options.json:
        print_json(as_json(story))
        return ExitCode.OK
    for word, text in head(story, local_time):
        print(f"{word:<{LONGEST_WORD}}{shown(text)}")
    if story.timeline.parts:
        print()
        print(f"{'at':>11} {'took':>11}")
    for line in lines(story):
        at = "" if line.at is None else seconds(line.at)
        took = "" if line.took is None else seconds(line.took)
        print(f"{at:>11} {took:>11}  {'  ' * line.depth}{shown(line.text)}")
    for trouble in story.timeline.troubles:
        print(f"failed     {shown(trouble)}")
    return ExitCode.OK


def gather(state_dir: str = handoff.STATE_DIR) -> Story:
    """The story of this boot, as it can be told by now. Raises NotPermitted."""
    if os.geteuid():
        raise NotPermitted("cannot tell how this boot came about", "only root may read the records", hint="use sudo")
    arrival, past = handoff.arrival(state_dir), history.attempts(state_dir)
    if arrival.how in (How.NOT_YET, How.UNKNOWN):
        arrival = remembered(past, sysfs.boot_id()) or arrival
    pending = arrival.pending
    attempt = history.of(pending.nonce or pending.from_boot_id, state_dir) if pending else None
    here = look(attempt, state_dir)
    before = down.read(state_dir)
    if pending is None or arrival.how is How.NOT_YET or before is None or before.boot_id != pending.from_boot_id:
        before = None
    kexec, plan = arrival.how is How.KEXEC, pending.plan if pending else ()
    meanwhile = "" if kexec else _meanwhile(attempt)
    timeline = build(before, here, kexec=kexec, to_come=plan, in_between=meanwhile)
    return Story(arrival=arrival, attempt=attempt, up=here, timeline=timeline, debt=history.debt(past, here.boot_id))


def remembered(past: Sequence[Attempt], boot_id: str) -> Arrival | None:
    """How this boot came about by the history: the record of it gives way to that of the next restart."""
    for attempt in reversed(past):
        if attempt.outcome.was_kexec and attempt.boot_id == boot_id:
            how, reason = How.KEXEC, "the history has it"
        elif attempt.settled_in == boot_id and not attempt.outcome.was_kexec:
            how, reason = How.OTHER, f"there was to be a kexec: {attempt.reason}"
        else:
            continue
        pending = PendingHandoff(
            nonce=attempt.nonce,
            from_boot_id=attempt.from_boot_id,
            from_release=attempt.from_release,
            to_entry_id=attempt.to_entry_id,
            to_version=attempt.to_version,
            way=attempt.way,
            requested_at=attempt.requested_at,
            trial=attempt.trial,
        )
        return Arrival(how, reason, sysfs.kernel_release(), pending)
    return None


def look(attempt: Attempt | None, state_dir: str = handoff.STATE_DIR) -> Up:
    """This boot's way up: what was kept of it, and what can be seen only now."""
    boot_id, init = sysfs.boot_id(), detect().name
    kept = up.read(boot_id, state_dir)
    # By now it may have come to what it had not when it was looked at, but its first messages may be gone.
    marks = kept.marks if kept and kept.marks.ready is not None else ascent.marks(init)
    moment = kept.moment if kept else clock.moment(wait=True)
    confirmed = kept.confirmed if kept else None
    if confirmed is None and attempt and attempt.outcome is Outcome.CONFIRMED and attempt.settled_in == boot_id:
        confirmed = max(0.0, attempt.settled_at - moment.start)
    return Up(
        boot_id=boot_id,
        release=sysfs.kernel_release(),
        init=init,
        moment=moment,
        marks=replace(marks, initrd=marks.initrd or kept.marks.initrd) if kept else marks,
        confirmed=confirmed,
    )


def _meanwhile(attempt: Attempt | None) -> str:
    """What lies in the gap of a restart that did not end in this boot by our jump."""
    if attempt and attempt.outcome is Outcome.FAILED:
        return f"the kexec into Linux {attempt.to_version} was tried and failed, and the firmware brought this boot"
    return "the rest of the way down, and the firmware"
