# SPDX-License-Identifier: MIT
"""Good and bad kernels in turn, in one machine: after each the history, the deny list and the counters are exact.

Each bad one is a kernel of its own content (a byte more at its end), so that each is denied for itself.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kexecd.history import Outcome
from kexecd.model import Way
from tests.vm.campaign import archives, guests, programs
from tests.vm.campaign.cases import PANICKED, Back, Case
from tests.vm.campaign.cell import came_back, denials, good, history
from tests.vm.campaign.staging import KEXECCTL, send, stage
from tests.vm.lab.errors import LabError
from tests.vm.lab.guest import Guest

KEXECS = 20

DEBT, DENIED, ATTEMPTS = "kexecd_kexecs_since_firmware", "kexecd_denied_kernels", "kexecd_attempts"
KINDS = (Outcome.CONFIRMED, Outcome.FAILED)


@dataclass(frozen=True, slots=True)
class Row:
    """One kexec of many. number: from 1 on; odd ones are good."""

    guest: str
    number: int
    problems: tuple[str, ...]
    took: float

    @property
    def good(self) -> bool:
        return not self.problems

    @property
    def bad_kernel(self) -> bool:
        return self.number % 2 == 0

    def line(self) -> str:
        """One line for a person."""
        what = "into a bad kernel" if self.bad_kernel else "into a good kernel"
        how = "as it should be" if self.good else f"FAILED: {'; '.join(self.problems)}"
        return f"{self.guest:<20} {self.number:3} {what:<28} {how} ({self.took:.0f} s)"

    def as_json(self) -> dict[str, object]:
        return {
            "guest": self.guest,
            "number": self.number,
            "good": self.good,
            "problems": list(self.problems),
            "took": round(self.took, 1),
        }


def run(name: str, kexecs: int = KEXECS) -> Iterator[Row]:
    """As many as are wanted; the first that is not as it should be is the last."""
    expected: list[tuple[str, str]] = []
    with (
        tempfile.TemporaryDirectory(prefix="lab-campaign-") as workdir,
        guests.start(guests.GUESTS[name], Path(workdir), last_words=True) as guest,
    ):
        for number in range(1, kexecs + 1):
            begin = time.monotonic()
            try:
                problems = list(_kexec(guest, number, expected))
            except (LabError, ValueError, KeyError) as error:
                problems = [f"{type(error).__name__}: {error}"]
            yield Row(name, number, tuple(problems), time.monotonic() - begin)
            if problems:
                return


def _kexec(guest: Guest, number: int, expected: list[tuple[str, str]]) -> Iterator[str]:
    """One of them, and what is not as it has to be afterwards. expected: nonce and outcome of each, in their order."""
    if number % 2:
        before = len(history(guest))
        yield from good(guest)
        expected += [(attempt["nonce"], Outcome.CONFIRMED) for attempt in history(guest)[before:]]
        # The firmware has had its turn with each bad one, so this one is the only one since.
        yield from _exact(guest, expected, denied=None, debt=1)
        return
    case = _bad(number)
    sent = send(guest, stage(case, guest))
    yield from came_back(case, guest, sent)
    expected.append((sent.nonce, Outcome.FAILED))
    yield from _exact(guest, expected, denied=sent.nonce, debt=0)
    forgiven = guest.run(KEXECCTL, "deny", "forgive", sent.nonce, timeout=60).stdout
    if left := denials(guest):
        yield f"still denied after that was forgiven ({forgiven.strip()}): {left}"


def _bad(number: int) -> Case:
    return Case(
        f"bad kernel {number}", Back.PANIC, PANICKED,
        symptom="sysrq triggered crash",
        kernel=lambda files: files.kernel + bytes([number]),
        initrd=lambda files: archives.with_init(files.initrd, programs.crash()),
    )  # fmt: skip


def _exact(guest: Guest, expected: list[tuple[str, str]], *, denied: str | None, debt: int) -> Iterator[str]:
    found = [(attempt["nonce"], attempt["outcome"]) for attempt in history(guest)]
    if found != expected:
        yield f"the history is {found}, and it should be {expected}"
    on_list = [denial["nonce"] for denial in denials(guest)]
    if on_list != ([denied] if denied else []):
        yield f"the deny list is of {on_list}, and it should be of {denied}"
    told = json.loads(guest.run(KEXECCTL, "metrics", "--json", timeout=60).stdout)["metrics"]
    values = {(metric["name"], *metric["labels"].values()): metric["value"] for metric in told}
    right: dict[tuple[str, ...], int] = {(DEBT,): debt, (DENIED,): len(on_list)}
    right |= {(ATTEMPTS, kind, Way.FAST): sum(each == kind for _, each in expected) for kind in KINDS}
    if wrong := {name: values.get(name, 0) for name, value in right.items() if values.get(name, 0) != value}:
        yield f"the metrics have {wrong}, and should have {right}"
