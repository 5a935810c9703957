# SPDX-License-Identifier: MIT
"""One kind of bad kernel in one guest, from the kexec into it to a good one: all that can be said about it.

The machine is sent into the bad kernel; it has to come back to the old system by itself, and to know why. The next
restart goes through the firmware and says so; when the kernel is forgiven, a good kexec is confirmed.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kexecd.history import Outcome
from kexecd.model import NONCE_KEY
from tests.vm.campaign import guests
from tests.vm.campaign.cases import Back, Case
from tests.vm.campaign.staging import KEXECCTL, Sent, send, stage
from tests.vm.lab import evidence
from tests.vm.lab.errors import AgentError, LabError, LabTimeout
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest, Mark
from tests.vm.lab.oracle import judge

LOST = 180.0
"""Seconds for a restart that nothing is wrong with: down, and up again; beside another guest a boot alone took 50."""

SPARE = {Back.PANIC: 20.0, Back.CONFIRM: 40.0, Back.WATCHDOG: 50.0}
"""Seconds over the limit that what brings the machine back may take: the way down of a new system that is given up, and
the watchdog, which leaves it time for that."""

WATCHING = 40.0
"""Seconds over the limit after which no watchdog is left that could fire."""

# Where the reason is found on each init: the kernel's log has what kexecd's scripts say, the journal has all of it.
LOG = "dmesg; journalctl --boot --no-pager --output=cat 2>/dev/null; true"

WHY_FIRMWARE = r"no kexec.*(?:denied|deny|failed)"


@dataclass(frozen=True, slots=True)
class Cell:
    """seconds: from the jump until the machine was reset; None if it was not."""

    case: str
    back: Back
    guest: str
    problems: tuple[str, ...]
    seconds: float | None = None
    symptom: str = ""
    reason: str = ""
    took: float = 0.0
    told: str = ""  # the console, where there is a problem

    @property
    def good(self) -> bool:
        return not self.problems

    def line(self) -> str:
        """One line for a person."""
        back = "never back" if self.seconds is None else f"back after {self.seconds:.1f} s"
        what = f"{back} by {self.back}: {self.reason}" if self.good else f"FAILED: {'; '.join(self.problems)}"
        return f"{self.guest:<20} {self.case:<28} {what} ({self.took:.0f} s)"

    def as_json(self) -> dict[str, object]:
        return {
            "case": self.case,
            "guest": self.guest,
            "back": str(self.back),
            "good": self.good,
            "problems": list(self.problems),
            "seconds": self.seconds,
            "symptom": self.symptom,
            "reason": self.reason,
            "took": round(self.took, 1),
        }


@dataclass(slots=True)
class _Notes:
    problems: list[str] = field(default_factory=list)
    seconds: float | None = None
    symptom: str = ""
    reason: str = ""


def run(case: Case, name: str, *, whole: bool = True) -> Cell:
    """`case` in a guest of its own; that the guest or the lab fails is a problem of the cell too.

    name: of the guest; whole: with the two restarts that follow, through the firmware and into a good kernel.
    """
    begin, notes = time.monotonic(), _Notes()
    told = ""
    with tempfile.TemporaryDirectory(prefix="lab-campaign-") as workdir:
        try:
            with guests.start(guests.GUESTS[name], Path(workdir), last_words=case.has_last_words) as guest:
                mark = guest.mark()
                try:
                    _walk(case, guest, notes, whole=whole)
                finally:
                    told = "\n".join(f"{line.at - mark.at:7.2f} {line.text}" for line in guest.lines(mark))
        except (LabError, ValueError, KeyError) as error:
            notes.problems.append(f"{type(error).__name__}: {error}")
    took = time.monotonic() - begin
    return Cell(
        case.name, case.back, name, tuple(notes.problems), notes.seconds, notes.symptom, notes.reason, took,
        told=told if notes.problems else "",
    )  # fmt: skip


def _walk(case: Case, guest: Guest, notes: _Notes, *, whole: bool) -> None:
    staged = stage(case, guest)
    if not staged.seen_coming and case.refused_by:
        notes.problems.append(f"{case.refused_by} does not see it coming")
    sent = send(guest, staged)
    notes.problems += came_back(case, guest, sent, notes)
    if notes.problems:
        return
    notes.problems += remembered(case, guest, sent, notes)
    if whole:
        notes.problems += firmware_next(guest)
        notes.problems += good_again(guest, lingers=case.lingers)


def came_back(case: Case, guest: Guest, sent: Sent, notes: _Notes | None = None) -> Iterator[str]:
    """Wait for it; what was not as it has to be."""
    notes = notes or _Notes()
    limit = guests.LIMIT + SPARE[case.back]
    jump = guest.wait_for_line("Starting new kernel", sent.mark, LOST).at
    reset = _awaited_reset(guest, sent.mark, jump + limit)
    after = [line.text for line in guest.lines(sent.mark) if line.at > jump and (reset is None or line.at <= reset)]
    if case.silent:
        if after:
            yield f"the new kernel spoke: {after[0]}"
    else:
        notes.symptom = next((text for text in after if re.search(case.symptom, text)), "")
        if not notes.symptom:
            yield f"it failed of something else: /{case.symptom}/ is not on the console of the new boot"
    if reset is None:
        yield f"it did not come back within {limit:.0f} s"
        return
    notes.seconds = round(reset - jump, 1)
    watchdog = evidence.event_time(guest.events(sent.mark), "WATCHDOG") is not None
    if watchdog != (case.back is Back.WATCHDOG):
        yield f"the watchdog {'did' if watchdog else 'did not'} bring it back"
    boot = _answering(guest, LOST)
    guest.wait_ready(LOST)
    if boot in (None, sent.boot_id):
        yield "the old system did not come up"
    elif NONCE_KEY in guest.cmdline():
        yield f"it is not the old system: {guest.cmdline()}"


def remembered(case: Case, guest: Guest, sent: Sent, notes: _Notes) -> Iterator[str]:
    """History, report, and the deny list, of a machine that has come back."""
    attempts = history(guest)
    if [attempt["nonce"] for attempt in attempts] != [sent.nonce]:
        yield f"the history is of {[attempt['nonce'] for attempt in attempts]}, and it should be of {sent.nonce}"
        return
    (attempt,) = attempts
    notes.reason = attempt["reason"]
    if attempt["outcome"] != Outcome.FAILED:
        yield f"the history has it as {attempt['outcome']}"
    if not re.search(case.reason, notes.reason, re.IGNORECASE):
        yield f"the reason is not /{case.reason}/ but: {notes.reason}"
    if attempt["settled_in"] != guest.boot_id():
        yield "it was not this boot that found out"
    report = guest.run(KEXECCTL, "report", timeout=60).stdout
    if notes.reason not in " ".join(report.split()):
        yield f"the report does not say why: {report}"
    denied = [denial["nonce"] for denial in denials(guest)]
    if denied != [sent.nonce]:
        yield f"the deny list is of {denied}, and it should be of {sent.nonce}"


def firmware_next(guest: Guest) -> Iterator[str]:
    """The next restart, by the door that everybody takes."""
    old, mark = guest.boot_id(), guest.mark()
    guest.spawn("reboot")
    seen = judge(guest, mark, None, old, timeout=2 * LOST)
    if seen.kind is not Kind.FIRMWARE or seen.seconds_to_jump is not None:
        yield f"the next restart was not through the firmware: {seen.explain()}"
        return
    if seen.recovered:
        yield f"replayed: {'; '.join(seen.recovered)}"
    log = guest.run("/bin/sh", "-c", LOG, timeout=60).stdout
    ours = [line for line in log.splitlines() if "kexec" in line]
    if not any(re.search(WHY_FIRMWARE, line, re.IGNORECASE) for line in ours):
        yield f"/{WHY_FIRMWARE}/ is not in what its log has of kexecd: {ours}"


def good_again(guest: Guest, *, lingers: bool) -> Iterator[str]:
    """Forgiven: a kexec into the kernel that the machine would boot anyway works, and is confirmed; and it stays."""
    guest.run(KEXECCTL, "deny", "forgive", "--all", timeout=60)
    if left := denials(guest):
        yield f"still denied: {left}"
    mark = guest.mark()
    yield from good(guest)
    if lingers and _awaited_reset(guest, mark, time.monotonic() + guests.LIMIT + WATCHING) is not None:
        yield "a good kernel was reset after it had been confirmed"
    outcomes = [attempt["outcome"] for attempt in history(guest)]
    if outcomes[:1] + outcomes[-1:] != [Outcome.FAILED, Outcome.CONFIRMED]:
        yield f"the history ends up as {outcomes}"


def good(guest: Guest) -> Iterator[str]:
    """A kexec that comes up and is confirmed."""
    nonce = json.loads(guest.run(KEXECCTL, "load", "--json", timeout=60).stdout)["image"]["nonce"]
    old, mark = guest.boot_id(), guest.mark()
    guest.spawn(KEXECCTL, "reboot", "--fast")
    seen = judge(guest, mark, nonce, old, timeout=2 * LOST)
    if seen.kind is not Kind.KEXEC:
        yield f"the good kexec was none: {seen.explain()}"
        return
    if seen.recovered:
        yield f"replayed: {'; '.join(seen.recovered)}"
    if not _confirmed(guest, nonce):
        yield f"the good kexec was not confirmed: {history(guest)[-1:]}"


def _confirmed(guest: Guest, nonce: str) -> bool:
    end = time.monotonic() + guests.LIMIT
    while time.monotonic() < end:
        if any(each["nonce"] == nonce and each["outcome"] == Outcome.CONFIRMED for each in history(guest)):
            return True
        guest.wait_for_change(1.0)
    return False


def history(guest: Guest) -> list[dict[str, Any]]:
    """Oldest first."""
    return list(json.loads(guest.run(KEXECCTL, "history", "--json", timeout=60).stdout)["attempts"])


def denials(guest: Guest) -> list[dict[str, Any]]:
    return list(json.loads(guest.run(KEXECCTL, "deny", "list", "--json", timeout=60).stdout)["denied"])


def _awaited_reset(guest: Guest, mark: Mark, end: float) -> float | None:
    while (at := evidence.event_time(guest.events(mark), "RESET")) is None and time.monotonic() < end:
        guest.wait_for_change(0.2)
    return at


def _answering(guest: Guest, timeout: float) -> str | None:
    """The id of the boot that answers."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            if guest.answers(1.0):
                return guest.boot_id(timeout=5)
        except (LabTimeout, AgentError):
            pass
        guest.wait_for_change(0.2)
    return None
