# SPDX-License-Identifier: MIT
"""When the firmware is to have its turn: a kernel that has failed, many kexecs in a row, an update that waits.

These are made where an image is in question, before its load or, when it is in memory, before the restart; a restart
that finds one of them refused, and that nobody has named an image for, goes through the firmware.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from kexecd import deny, handoff, history
from kexecd.config.checks import Answer, CheckId
from kexecd.config.policy import Policy, Updates
from kexecd.deny import Denial
from kexecd.errors import Refusal
from kexecd.handoff import Unreadable
from kexecd.history import Outcome
from kexecd.kernel import machine, microcode, sysfs
from kexecd.kernel.files import join_root
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Flaw, Severity

# fwupd's variables, one for each update, called by their vendor (fwupd, plugins/uefi-capsule).
FWUPD = "-0abba7dc-e516-4167-bbf5-4d9d1c739416"

FWUPD_STATUS = 48  # offset of a 32-bit number, behind version, GUID, flags, instance and time
ATTEMPT_UPDATE = 1  # of that number; the next boot makes a 2 of it

CAPSULE_ON_DISK = 4  # EFI_OS_INDICATIONS_FILE_CAPSULE_DELIVERY_SUPPORTED in the UEFI specification, 8.5.4

FWUPD_HISTORY = "/var/lib/fwupd/pending.db"
NEEDS_REBOOT = 4  # FWUPD_UPDATE_STATE_NEEDS_REBOOT in libfwupd/fwupd-enums.h

FIRMWARE = "restart through the firmware: `kexecctl reboot --firmware`"
FORGIVE = "boot it through the firmware, or `kexecctl deny forgive`"


IDS = frozenset((CheckId.FIRMWARE_UPDATE, CheckId.FIRMWARE_DEBT, CheckId.DENIED))


def denied(facts: Facts) -> Iterator[Flaw]:
    """A kernel that has failed on this machine; and, whatever the kernel, the restart after one that did."""
    if not _in_question(facts):
        return
    state_dir = join_root(facts.root, facts.state_dir)
    subject = facts.subject
    try:
        listed = deny.denials(state_dir)
        if not listed:
            return
        here = machine.fingerprint(facts.root)
        found = deny.denied(here, digest=lambda: _digest(facts), version=subject.version, state_dir=state_dir)
    except Unreadable as error:
        why = f"nobody can tell whether this kernel has failed here before: {facts.state_dir}/{deny.DENY}: {error}"
        yield Flaw(why, "`kexecctl deny forgive --all` begins a new list")
        return
    if found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.since))
        yield Flaw(f"a kexec into {_named(found)} failed on this machine on {when}: {found.reason}", FORGIVE)
    elif last := _failed_into_here(state_dir, facts.root, listed):
        yield Flaw(_sentence(last), f"{FIRMWARE}, or `kexecctl deny forgive`")


def firmware_debt(facts: Facts) -> Iterator[Flaw]:
    most = facts.policy.firmware_after
    if not most or not _in_question(facts):
        return
    owed = debt(join_root(facts.root, facts.state_dir), facts.root)
    if owed >= most:
        kexecs = "one kexec" if owed == 1 else f"{owed} kexecs"
        yield Flaw(f"{kexecs} in a row, and the policy wants the firmware to have its turn after {most}", FIRMWARE)


def firmware_update(facts: Facts) -> Iterator[Flaw]:
    wanted = facts.policy.firmware_updates
    if wanted is Updates.IGNORE or not _in_question(facts):
        return
    severity = Severity.REFUSE if wanted is Updates.REFUSE else None
    if why := _capsule(facts) or _fwupd(facts):
        yield Flaw(f"{why}, and a kexec puts it off", FIRMWARE, severity)
    if newer := microcode.newer(facts.root):
        why = f"{newer.file} has the processor's microcode {newer.installed:#x}, and {newer.running:#x} runs"
        yield Flaw(why, FIRMWARE, severity)


def debt(state_dir: str, root: str = "/") -> int:
    """How many kexecs have led to this boot since the firmware had its turn; this one counts before it is confirmed."""
    past, here = history.attempts(state_dir), sysfs.boot_id(root)
    pending = handoff.expected(state_dir)
    if pending and not pending.settled and handoff.is_arrival(pending, root):
        return 1 + history.debt(past, pending.from_boot_id)
    return history.debt(past, here)


def is_silent(policy: Policy, state_dir: str = handoff.STATE_DIR) -> bool:
    """Whether none of these refuses anything whatever the image is, so that it need not be looked at."""
    if policy.firmware_after or policy.firmware_updates is Updates.REFUSE:
        return False
    try:
        return not deny.denials(state_dir)
    except Unreadable:
        return False


def _in_question(facts: Facts) -> bool:
    return facts.subject.target is not None or facts.subject.image is not None


def _digest(facts: Facts) -> str:
    from kexecd.record import of_file  # late: only where something is denied

    subject = facts.subject
    if subject.target:
        return of_file(subject.target.kernel).sha256
    return subject.image.kernel.sha256 if subject.image else ""


def came_back(*, policy: Policy, state_dir: str = handoff.STATE_DIR, root: str = "/") -> str:
    """That this boot came about because a kexec failed, as a sentence; empty where it did not, or that is forgiven.

    For who has an image of which nothing is known.
    """
    said = {rule.check: rule.answer for rule in policy.checks}.get(CheckId.DENIED, Answer.REFUSE)
    try:
        last = _failed_into_here(state_dir, root, deny.denials(state_dir)) if said is Answer.REFUSE else None
    except Unreadable:
        return ""
    return f"{_sentence(last)} (check {CheckId.DENIED})" if last else ""


def _sentence(last: Denial) -> str:
    why = f"this boot came about because a kexec failed, into {_named(last)}: {last.reason}"
    return f"{why}; the next restart is to be an ordinary one"


def _failed_into_here(state_dir: str, root: str, listed: tuple[Denial, ...]) -> Denial | None:
    """What failed before this boot, and has not been forgiven."""
    if not listed:
        return None
    here = sysfs.boot_id(root)
    past = history.attempts(state_dir)
    found = {one.nonce for one in past if one.outcome is Outcome.FAILED and one.settled_in == here}
    return next((denial for denial in listed if denial.nonce in found), None)


def _named(denial: Denial) -> str:
    return f"Linux {denial.version}" if denial.version else denial.entry_id


def _capsule(facts: Facts) -> str:
    for file in facts.listing("/sys/firmware/efi/efivars"):
        if not (file.startswith("fwupd-") and file.endswith(FWUPD)):
            continue
        value = facts.efi(file.removesuffix(FWUPD), FWUPD[1:])
        if value and int.from_bytes(value[FWUPD_STATUS : FWUPD_STATUS + 4], "little") == ATTEMPT_UPDATE:
            return "an update of the firmware waits for the next start"
    wishes = facts.efi("OsIndications")
    if wishes and int.from_bytes(wishes[:8], "little") & CAPSULE_ON_DISK:
        return "an update of the firmware waits on the EFI system partition"
    return ""


def _fwupd(facts: Facts) -> str:
    """A device that fwupd has written, and that takes it up at the next start of the firmware."""
    path = join_root(facts.root, FWUPD_HISTORY)
    if not os.path.isfile(path) or not os.path.getsize(path):
        return ""
    import sqlite3  # late: only where fwupd has updated something

    began = facts.now() - sysfs.uptime() if facts.alive else 0.0
    if debt(join_root(facts.root, facts.state_dir), facts.root):
        began = 0.0  # the firmware's last turn was before this boot
    query = "SELECT display_name FROM history WHERE update_state = ? AND device_modified >= ? LIMIT 1"
    try:
        # immutable: nothing is written beside it, and nobody is waited for.
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
            row = database.execute(query, (NEEDS_REBOOT, began)).fetchone()
    except sqlite3.Error as error:
        raise Refusal("cannot look for updates", f"{FWUPD_HISTORY}: {error}") from error
    return f"fwupd has an update that waits for the next start: {row[0] or 'of a device'}" if row else ""
