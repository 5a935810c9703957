# SPDX-License-Identifier: MIT
"""The machine loses power around the writes of the record: QEMU is killed, and its disks are booted anew.

What the guest has flushed is in QEMU's files then, and nothing else has to be. Whatever was lost, the records can be
read in the next boot, and say nothing twice.
"""

from __future__ import annotations

import functools
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vm.campaign import guests
from tests.vm.campaign.staging import KEXECCTL
from tests.vm.lab.errors import LabError
from tests.vm.lab.guest import Guest

BOOTING, STARTING = 120.0, 60.0  # seconds
WRITER_PATH = "/root/writer.py"

# Every record, over and over, as kexecd writes it; the number is told when its write is on the disk.
WRITER = """\
import sys, time
sys.path.insert(0, "/usr/lib/kexecd")
from kexecd import deny, handoff, history
from kexecd.model import Way

console = open("/dev/console", "w", buffering=1)
for number in range(1, 1 << 20):
    nonce = f"{number:016x}"
    with handoff.locked():
        handoff.write(handoff.PendingHandoff(
            nonce=nonce, from_boot_id="a", from_release="b", to_entry_id="c", to_version="d", way=Way.FAST,
            requested_at=time.time(), refused="e", seen_in="f",
        ))
        history.append(history.Attempt(
            nonce=nonce, outcome=history.Outcome.REFUSED, reason="g" * (number % 500), machine="h", from_release="b",
            from_boot_id="a", to_entry_id="c", to_version="d", kernel_sha256="", way=Way.FAST, trial=False,
            requested_at=1.0, arrived_at=None, settled_at=2.0, settled_in="i", boot_id="",
        ))
        deny.add(deny.Denial(
            machine="h", kernel_sha256="k" * 64, version="d", entry_id="c", reason="j" * (number % 500), since=1.0,
            nonce=nonce,
        ))
    console.write(f"written {number}\\n")
"""

WRITTEN = re.compile(r"written (\d+)$")

# What kexecd itself makes of the records.
READER = """\
import json, sys
sys.path.insert(0, "/usr/lib/kexecd")
from kexecd import deny, handoff, history

pending = handoff.read()
print(json.dumps({
    "pending": pending.nonce if pending else None,
    "history": [attempt.nonce for attempt in history.attempts()],
    "denied": [denial.nonce for denial in deny.denials()],
}))
"""

AFTER = (1, 3, 6, 10, 15)
"""The power is cut a moment after so many rounds of all records; the moment is another each time."""

STEP = 0.013  # seconds; a round takes some tens of milliseconds


@dataclass(frozen=True, slots=True)
class Moment:
    """In a restart: the console line after which the power is cut."""

    name: str
    line: str


MOMENTS = (
    Moment("as the restart is written down", r"kexecd: record: write"),
    Moment("when it has been written down", r"kexecd: commit point"),
    Moment("at the jump", r"Starting new kernel"),
    Moment("as the new boot finishes the restart", r"Starting kexecd-finish|kexecd: this boot: kexec"),
)


@dataclass(frozen=True, slots=True)
class Cut:
    """One loss of power."""

    guest: str
    moment: str
    problems: tuple[str, ...]
    took: float

    @property
    def good(self) -> bool:
        return not self.problems

    def line(self) -> str:
        """One line for a person."""
        how = "readable" if self.good else f"FAILED: {'; '.join(self.problems)}"
        return f"{self.guest:<20} power cut: {self.moment:<40} {how} ({self.took:.0f} s)"

    def as_json(self) -> dict[str, object]:
        return {
            "guest": self.guest,
            "moment": self.moment,
            "good": self.good,
            "problems": list(self.problems),
            "took": round(self.took, 1),
        }


Check = Callable[[dict[str, Any]], Iterator[str]]
"""What is not right about the records that READER has found."""

Life = Callable[[Guest], Check]
"""What a machine does until its power is cut; returns what has to be true of the records then."""


def lives() -> dict[str, Life]:
    """By the name of the moment at which each ends."""
    found: dict[str, Life] = {
        f"after {rounds} rounds of writes": functools.partial(_writing, rounds, count * STEP)
        for count, rounds in enumerate(AFTER)
    }
    return found | {moment.name: functools.partial(_restarting, moment) for moment in MOMENTS}


def run(moment: str, name: str) -> Cut:
    """A loss of power at this moment, of a machine of its own. name: of the guest."""
    begin, problems = time.monotonic(), list[str]()
    with tempfile.TemporaryDirectory(prefix="lab-campaign-") as workdir:
        try:
            with guests.start(guests.GUESTS[name], Path(workdir)) as guest:
                check = lives()[moment](guest)
                guest.stop()  # SIGKILL to QEMU
            with Guest.start_again(guest.hardware, guest.image, workdir=guest.workdir) as again:
                again.wait_ready(BOOTING)
                problems += _read(again, check)
        except (LabError, ValueError) as error:
            problems.append(f"{type(error).__name__}: {error}")
    return Cut(name, moment, tuple(problems), time.monotonic() - begin)


def _read(guest: Guest, check: Check) -> Iterator[str]:
    for words in (("status",), ("history",), ("deny", "list"), ("report",)):
        done = guest.run(KEXECCTL, *words, "--json", timeout=60, check=False)
        if done.exit_code:
            yield f"kexecctl {' '.join(words)} ends with {done.exit_code}: {done.stderr.strip()}"
    done = guest.run("/usr/bin/python3", "-c", READER, timeout=60, check=False)
    if done.exit_code:
        yield f"a record cannot be read: {done.stderr.strip()}"
    else:
        yield from check(json.loads(done.stdout))


def _writing(rounds: int, moment: float, guest: Guest) -> Check:
    """Nothing is lost that was on the disk, and nothing is there by half."""
    guest.put(WRITER_PATH, WRITER.encode())
    mark = guest.mark()
    guest.spawn("/usr/bin/python3", WRITER_PATH)
    guest.wait_for_line(rf"written {rounds}$", mark, STARTING)
    time.sleep(moment)
    guest.stop()
    told = max(int(match[1]) for line in guest.lines(mark) if (match := WRITTEN.search(line.text)))

    def check(found: dict[str, Any]) -> Iterator[str]:
        numbers = [int(nonce, 16) for nonce in found["history"]]
        # The round that was at work may have been written too.
        if numbers not in (list(range(1, told + 1)), list(range(1, told + 2))):
            yield f"{told} attempts were written, and the history has {numbers}"
        for what, nonces in (("pending.json", [found["pending"]]), ("deny.json", found["denied"])):
            if [int(nonce, 16) for nonce in nonces] not in ([told], [told + 1]):
                yield f"{told} was written, and {what} has {nonces}"

    return check


def _restarting(moment: Moment, guest: Guest) -> Check:
    """Whatever becomes of the attempt, it is told once, and the deny list agrees with it."""
    loaded = guest.run(KEXECCTL, "load", "--json", timeout=60)
    nonce = json.loads(loaded.stdout)["image"]["nonce"]
    mark = guest.mark()
    guest.spawn(KEXECCTL, "reboot", "--fast")
    guest.wait_for_line(moment.line, mark, STARTING)

    def check(found: dict[str, Any]) -> Iterator[str]:
        if found["history"] not in ([], [nonce]):
            yield f"the history is of {found['history']}, and there was only {nonce}"
        if found["denied"] not in ([], [nonce]):
            yield f"the deny list is of {found['denied']}, and there was only {nonce}"
        if set(found["denied"]) - set(found["history"]):
            yield "what is denied is not in the history"

    return check
