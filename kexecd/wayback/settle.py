# SPDX-License-Identifier: MIT
"""Saying what became of an attempt, once: in the history, on the deny list if it failed, and then in its record.

In this order, so that a power cut in between leaves an open record, and whoever settles it again does what is missing:
the history knows by the nonce what was said first. Only `unconfirmed` is no last word: the record stays open, and what
is said later replaces it.

Everything here holds the lock of the records, and raises OSError where they cannot be written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from kexecd import deny, handoff, history
from kexecd.deny import Denial
from kexecd.handoff import STATE_DIR, PendingHandoff
from kexecd.history import Attempt, Outcome
from kexecd.kernel import sysfs
from kexecd.wayback import last_words

NOT_SAID = "it came up, and was restarted before it could be confirmed"
LEFT = "another restart was asked for before it could be confirmed"
ELSEWHERE = "it led into another installed system, which does not report here"
REPAIR = "it was for repairs, and nobody asks such a boot how it is"
WELL = "it reported back, and nobody is there who says more"

Clock = Callable[[], float]


def confirmed(
    nonce: str, reason: str, *, state_dir: str = STATE_DIR, root: str = "/", now: Clock = time.time
) -> Attempt | None:
    """This boot, which the attempt with this nonce led to, is good. None if that attempt is not open any more."""
    return _Settling(state_dir, root, now).settle(nonce, Outcome.CONFIRMED, reason)


def failed(
    nonce: str, reason: str, *, state_dir: str = STATE_DIR, root: str = "/", now: Clock = time.time
) -> Attempt | None:
    """It led to a boot that is not good, or to none; its kernel is denied from now on."""
    return _Settling(state_dir, root, now).settle(nonce, Outcome.FAILED, reason)


def refused(
    nonce: str, reason: str, *, state_dir: str = STATE_DIR, root: str = "/", now: Clock = time.time
) -> Attempt | None:
    """There was no jump, for a reason that is not the kernel's."""
    return _Settling(state_dir, root, now).settle(nonce, Outcome.REFUSED, reason)


def unconfirmed(
    nonce: str, reason: str = NOT_SAID, *, state_dir: str = STATE_DIR, root: str = "/", now: Clock = time.time
) -> Attempt | None:
    """This boot, which it led to, is left in good order before anybody could say how it is. The record stays open."""
    return _Settling(state_dir, root, now).settle(nonce, Outcome.UNCONFIRMED, reason, close=False)


def conclude(*, state_dir: str = STATE_DIR, root: str = "/", now: Clock = time.time) -> Attempt | None:
    """In a boot that an open attempt has not led to: say what became of it, as well as can be told.

    None where nothing is open, or it was asked for in this boot, or led to it.
    """
    pending = handoff.expected(state_dir)
    if pending is None or pending.settled or handoff.is_open_here(pending, root):
        return None
    outcome, reason = _judge(pending, history.of(pending.key, state_dir), root)
    return _Settling(state_dir, root, now).settle(pending.nonce, outcome, reason)


def forget(*, state_dir: str = STATE_DIR, root: str = "/", now: Clock = time.time) -> None:
    """What was asked for is over; but a boot that gives itself up leaves its reason to the next one."""
    if not _gives_itself_up(handoff.expected(state_dir), root):
        leave(state_dir=state_dir, root=root, now=now)
        handoff.forget(state_dir)


def tell_next_boot(why: str, *, state_dir: str = STATE_DIR, root: str = "/", now: Clock = time.time) -> None:
    """Why there is no kexec where one was meant; but for a boot that gives itself up, which has told its own reason."""
    if not _gives_itself_up(handoff.expected(state_dir), root):
        leave(state_dir=state_dir, root=root, now=now)
        handoff.refuse(why, state_dir, now=now)


def leave(*, state_dir: str = STATE_DIR, root: str = "/", now: Clock = time.time) -> Attempt | None:
    """Before the record is written over: what it says of an earlier attempt goes into the history."""
    pending = handoff.expected(state_dir)
    if pending and not pending.settled and handoff.is_arrival(pending, root):
        if pending.failure:
            return failed(pending.nonce, pending.failure, state_dir=state_dir, root=root, now=now)
        return unconfirmed(pending.nonce, LEFT, state_dir=state_dir, root=root, now=now)
    return conclude(state_dir=state_dir, root=root, now=now)


def _gives_itself_up(pending: PendingHandoff | None, root: str) -> bool:
    return bool(pending and not pending.settled and pending.failure and handoff.is_arrival(pending, root))


def _judge(pending: PendingHandoff, said: Attempt | None, root: str) -> tuple[Outcome, str]:
    if pending.failure:
        return Outcome.FAILED, pending.failure
    if pending.refused and not pending.arrived_in:
        return Outcome.REFUSED, pending.refused
    if said:  # cut short after the history was written; or left in good order
        return said.outcome, said.reason
    if why := last_words.panic(pending.requested_at, root):
        return Outcome.FAILED, why
    if pending.foreign or pending.repair:
        return Outcome.UNCONFIRMED, ELSEWHERE if pending.foreign else REPAIR
    hung, lost = last_words.reset(root), "it hung, or the machine lost power"
    if not pending.arrived_in:
        return Outcome.FAILED, f"it never reported back: {hung or f'{lost}, or the jump did not happen'}"
    if not pending.limit:
        return Outcome.CONFIRMED, WELL
    return Outcome.FAILED, f"it came up and was never confirmed: {hung or lost}"


@dataclass(frozen=True, slots=True)
class _Settling:
    state_dir: str
    root: str
    now: Clock

    def settle(self, nonce: str, outcome: Outcome, reason: str, *, close: bool = True) -> Attempt | None:
        with handoff.locked(self.state_dir):
            pending = handoff.expected(self.state_dir)
            if pending is None or pending.settled or pending.nonce != nonce:
                return self._late(nonce, outcome, handoff.shortened(reason))
            attempt = history.of(pending.key, self.state_dir)
            if attempt is None or (attempt.outcome is Outcome.UNCONFIRMED and outcome is not Outcome.UNCONFIRMED):
                attempt = self._attempt(pending, outcome, handoff.shortened(reason))
                history.append(attempt, self.state_dir)
            if not close:
                return attempt
            if attempt.outcome is Outcome.FAILED:
                if attempt.kernel_sha256 or attempt.to_version:
                    deny.add(_denial(attempt), self.state_dir)
                pending = replace(pending, failure=attempt.reason)  # what this boot says when it is asked
            handoff.write(replace(pending, seen_in=sysfs.boot_id(self.root)), self.state_dir)
            return attempt

    def _late(self, nonce: str, outcome: Outcome, reason: str) -> Attempt | None:
        """A record of another restart stands there already; what was left open of this one may still become good."""
        said = history.of(nonce, self.state_dir) if nonce and outcome is Outcome.CONFIRMED else None
        if said is None or said.outcome is not Outcome.UNCONFIRMED:
            return None
        here = sysfs.boot_id(self.root)
        good = replace(said, outcome=outcome, reason=reason, settled_at=self.now(), settled_in=here)
        history.append(good, self.state_dir)
        return good

    def _attempt(self, pending: PendingHandoff, outcome: Outcome, reason: str) -> Attempt:
        here = sysfs.boot_id(self.root)
        came = handoff.is_arrival(pending, self.root)
        return Attempt(
            nonce=pending.nonce,
            outcome=outcome,
            reason=reason,
            machine=pending.machine,
            from_release=pending.from_release,
            from_boot_id=pending.from_boot_id,
            to_entry_id=pending.to_entry_id,
            to_version=pending.to_version,
            kernel_sha256=pending.kernel_sha256,
            way=pending.way,
            trial=pending.trial,
            requested_at=pending.requested_at,
            arrived_at=pending.arrived_at,
            settled_at=self.now(),
            settled_in=here,
            boot_id=pending.arrived_in or (here if came else ""),
        )


def _denial(attempt: Attempt) -> Denial:
    return Denial(
        machine=attempt.machine,
        kernel_sha256=attempt.kernel_sha256,
        version=attempt.to_version,
        entry_id=attempt.to_entry_id,
        reason=attempt.reason,
        since=attempt.settled_at,
        nonce=attempt.nonce,
    )
