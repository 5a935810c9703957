# SPDX-License-Identifier: MIT
"""The record of a restart that begins: what the new boot, and whoever comes after it, is to know of it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from kexecd import handoff
from kexecd.errors import Busy
from kexecd.handoff import ONE_SHOT, STATE_DIR, PendingHandoff
from kexecd.kernel import cmdline, machine, sysfs
from kexecd.kernel.flocks import StillHeld
from kexecd.model import ImageRecord, Way
from kexecd.wayback import usual

LIMIT = 300.0
"""Seconds in which a trial has to be confirmed where the policy says nothing of it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a restart is asked for with. limit: seconds, 0 for nobody who confirms it.

    by_loader: it boots what the boot loader would boot next, and so uses up a choice for one boot. plan: the phases.
    """

    limit: float = 0.0
    trial: bool = False
    by_loader: bool = False
    plan: tuple[str, ...] = ()


def record(image: ImageRecord, way: Way, terms: Terms, entry_id: str = "") -> PendingHandoff:
    """Of a restart from here into `image`. entry_id: as it is called now, where that is not as it was at the load."""
    return PendingHandoff(
        nonce=image.nonce,
        from_boot_id=sysfs.boot_id(),
        from_release=sysfs.kernel_release(),
        to_entry_id=entry_id or image.entry_id,
        to_version=image.version,
        way=way,
        requested_at=time.time(),
        machine=machine.fingerprint(),
        kernel_sha256=image.kernel.sha256,
        initrd_sha256="+".join(file.sha256 for file in image.initrds),
        limit=terms.limit if is_confirmed(image) else 0.0,
        trial=terms.trial,
        foreign=image.foreign,
        repair=cmdline.asks_for_repair(image.cmdline),
        one_shot=_one_shot() if terms.by_loader else "",
        plan=terms.plan,
    )


def is_confirmed(image: ImageRecord) -> bool:
    """Whether somebody is there in the new boot who finds it good or gives it up.

    Another installed system reports elsewhere; and a boot for repairs is not to be ended under whoever repairs.
    """
    return usual.enabled() and not image.foreign and not cmdline.asks_for_repair(image.cmdline)


def write(pending: PendingHandoff, state_dir: str = STATE_DIR) -> None:
    """On the disk when it returns, with what the record before it says in the history. Raises OSError and Busy."""
    before = handoff.expected(state_dir)
    try:
        if before and not before.settled:
            from kexecd.wayback import settle  # late: mostly it is known what became of the last one

            settle.leave(state_dir=state_dir)
        with handoff.locked(state_dir):
            handoff.write(pending, state_dir)
    except StillHeld as error:
        raise Busy("cannot restart this machine", str(error)) from error


def _one_shot() -> str:
    from kexecd.wayback import oneshot  # late: it knows the boot loaders, which a chosen image has no use for

    return oneshot.told()


def hold_one_shot(pending: PendingHandoff) -> str:
    """What goes wrong with it, as a sentence or nothing (kexecd.wayback.oneshot)."""
    if not pending.one_shot:
        return ""
    from kexecd.wayback import oneshot  # late, as above

    return oneshot.hold(pending.one_shot)


def put_back_one_shot() -> str:
    """The same, for a restart that goes through the firmware after all, or is given up."""
    if not os.path.exists(os.path.join(STATE_DIR, ONE_SHOT)):
        return ""
    from kexecd.wayback import oneshot  # late, as above

    return oneshot.put_back()
