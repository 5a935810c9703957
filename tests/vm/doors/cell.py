# SPDX-License-Identifier: MIT
"""One door, taken in one guest, and all that can be said about how it ended."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kexecd.model import NONCE_KEY
from tests.vm.doors import guests
from tests.vm.doors.disks import needs_recovery
from tests.vm.doors.staging import KEXECCTL
from tests.vm.doors.table import KEYS, Door, End
from tests.vm.lab import evidence
from tests.vm.lab.bootdisk import EDGE_MIB
from tests.vm.lab.errors import LabError
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest, Mark
from tests.vm.lab.hardware import DATA, ROOT
from tests.vm.lab.oracle import Restart, judge
from tests.vm.lab.recipe import Recipe

PATIENCE = 180.0
"""Seconds for a door to end; the slowest waits for a minute before it does anything."""

TYPING = 1.0
"""Seconds between two attempts to find a shell at the console: its prompt ends no line, so nobody sees it come."""

SETUP = re.compile(r'BdsDxe: starting Boot\S+ "UiApp"')
"""OVMF shows its own screen: edk2, MdeModulePkg/Application/UiApp."""

HALTED = re.compile(r"reboot: System halted")
ANSWER = re.compile(r"^loaded=([01])$")
QUESTION = "\necho loaded=$(cat /sys/kernel/kexec_loaded)\n"

SPOKEN = "/run/door"
"""What the door's own command says, for when nothing comes of it."""

# Where the reason is found on each init: the kernel's log has what kexecd's scripts say, the journal has all of it.
LOG = "dmesg; journalctl --boot --no-pager --output=cat 2>/dev/null; true"


@dataclass(frozen=True, slots=True)
class Cell:
    """seconds: from the door to the jump, the reset, or whatever its end is; None if there was none."""

    door: Door
    guest: str
    problems: tuple[str, ...]
    seconds: float | None
    took: float
    said: tuple[str, ...] = ()  # kexecd's own words since the door, each with its seconds
    told: str = ""  # the console, where there is a problem

    @property
    def good(self) -> bool:
        return not self.problems

    def line(self) -> str:
        """One line for a person."""
        when = "" if self.seconds is None else f" after {self.seconds:.1f} s"
        what = f"{self.door.end}{when}" if self.good else f"FAILED: {'; '.join(self.problems)}"
        return f"{self.guest:<20} {self.door.name:<56} {what} ({self.took:.0f} s)"

    def as_json(self) -> dict[str, object]:
        return {
            "door": self.door.name,
            "guest": self.guest,
            "end": str(self.door.end),
            "good": self.good,
            "problems": list(self.problems),
            "seconds": self.seconds,
            "took": round(self.took, 1),
            "said": list(self.said),
        }


@dataclass(frozen=True, slots=True)
class _Ending:
    problems: tuple[str, ...]
    seconds: float | None


def run(door: Door, recipe: Recipe) -> Cell:
    """Take `door` in a guest of its own; that the guest or the lab fails is a problem of the cell too."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lab-door-") as workdir:
        try:
            with guests.start(recipe, Path(workdir)) as guest:
                return _take(door, guest, begin)
        except LabError as error:
            told = "\n".join(getattr(error, "__notes__", ()))
            problem = f"{type(error).__name__}: {error}"
            return Cell(door, recipe.name, (problem,), None, time.monotonic() - begin, told=told)


def _take(door: Door, guest: Guest, begin: float) -> Cell:
    recipe = guest.image.recipe
    command = door.command(recipe)
    assert command is not None, f"{recipe.name} has no {door.name}"
    door.before(guest)
    old, mark = guest.boot_id(), guest.mark()
    if command == KEYS:
        guest.press("ctrl", "alt", "delete")
    else:
        guest.spawn("/bin/sh", "-c", f"{{ {command}; }} > {SPOKEN} 2>&1")
    match door.end:
        case End.KEXEC:
            ending = _kexec(guest, mark, old)
        case End.FIRMWARE:
            ending = _firmware(guest, mark, old, door.reason)
        case End.SETUP:
            ending = _setup(guest, mark)
        case End.OFF:
            ending = _off(guest, mark)
        case End.RESCUE:
            ending = _rescue(guest, mark)
    lines = guest.lines(mark)
    said = tuple(f"{line.at - mark.at:.2f} {line.text}" for line in lines if "kexecd" in line.text)
    told = _told(guest, mark) if ending.problems else ""
    return Cell(door, recipe.name, ending.problems, ending.seconds, time.monotonic() - begin, said, told)


def _told(guest: Guest, mark: Mark) -> str:
    """The console, and what the command said if this is still its boot."""
    told = [f"{line.at - mark.at:7.2f} {line.text}" for line in guest.lines(mark)]
    if guest.running and guest.answers():
        told.append(guest.run("cat", SPOKEN, check=False).stdout)
    return "\n".join(told)


def _kexec(guest: Guest, mark: Mark, old: str) -> _Ending:
    seen = judge(guest, mark, None, old, timeout=PATIENCE)
    problems = [*_restarted(seen, Kind.KEXEC)]
    if seen.boot_id_changed:
        status = json.loads(guest.run(KEXECCTL, "status", "--json", timeout=60).stdout)
        pending = status["arrival"]["pending"] or {}
        nonce = f"{NONCE_KEY}={pending.get('nonce')}"
        if nonce not in guest.cmdline().split():
            problems.append(f"{nonce} is not on the new command line")
        if status["arrival"]["how"] != "kexec":
            problems.append(f"status says: {status['arrival']}")
    return _Ending(tuple(problems), seen.seconds_to_jump)


def _firmware(guest: Guest, mark: Mark, old: str, reason: str) -> _Ending:
    seen = judge(guest, mark, None, old, timeout=PATIENCE)
    problems = [*_restarted(seen, Kind.FIRMWARE), *_no_jump(guest, mark)]
    if seen.boot_id_changed and reason:
        log = guest.run("/bin/sh", "-c", LOG, timeout=60).stdout
        ours = [line for line in log.splitlines() if "kexec" in line]
        if not any(re.search(reason, line) for line in ours):
            problems.append(f"/{reason}/ is not in what the new boot's log has of kexecd: {ours}")
    return _Ending(tuple(problems), seen.seconds_to_reset)


def _setup(guest: Guest, mark: Mark) -> _Ending:
    reset = _awaited(guest, lambda: evidence.event_time(guest.events(mark), "RESET"))
    problems = [] if reset else ["the machine was not reset"]
    if reset and _awaited(guest, lambda: _first(guest, mark, SETUP)) is None:
        problems.append("the firmware did not come to its own screen")
    return _gone(guest, mark, problems, reset)


def _off(guest: Guest, mark: Mark) -> _Ending:
    at = _awaited(guest, lambda: _off_since(guest, mark))
    problems = [] if at else ["the machine is still on"]
    if evidence.event_time(guest.events(mark), "RESET") is not None:
        problems.append("the machine was reset")
    return _gone(guest, mark, problems, at)


def _rescue(guest: Guest, mark: Mark) -> _Ending:
    answer, end = None, time.monotonic() + PATIENCE
    while answer is None and time.monotonic() < end:
        guest.type(QUESTION)
        time.sleep(TYPING)
        answer = next((line for line in guest.lines(mark) if ANSWER.match(line.text)), None)
    problems = [*_no_jump(guest, mark)]
    if evidence.event_time(guest.events(mark), "RESET") is not None:
        problems.append("the machine was reset")
    if answer is None:
        problems.append("nobody is at the console")
    elif answer.text != "loaded=0":
        problems.append("an image is still in memory")
    return _Ending(tuple(problems), None if answer is None else answer.at - mark.at)


def _restarted(seen: Restart, kind: Kind) -> Iterator[str]:
    if seen.kind is not kind:
        yield f"it was not a {kind}: {seen.explain()}"
    if seen.recovered:
        yield f"replayed: {'; '.join(seen.recovered)}"


def _no_jump(guest: Guest, mark: Mark) -> Iterator[str]:
    if evidence.jump_time(guest.lines(mark)) is not None:
        yield "a kernel was started"


def _awaited(guest: Guest, seen: Callable[[], float | None]) -> float | None:
    """When it was seen, or None if that is still to come when the time is over."""
    end = time.monotonic() + PATIENCE
    while (at := seen()) is None and time.monotonic() < end:
        guest.wait_for_change(0.2)
    return at


def _off_since(guest: Guest, mark: Mark) -> float | None:
    return _first(guest, mark, HALTED) or evidence.event_time(guest.events(mark), "SHUTDOWN")


def _first(guest: Guest, mark: Mark, pattern: re.Pattern[str]) -> float | None:
    return next((line.at for line in guest.lines(mark) if pattern.search(line.text)), None)


def _gone(guest: Guest, mark: Mark, problems: list[str], at: float | None) -> _Ending:
    """Of a machine that does not come back: no jump, and its disks, looked at from outside, are clean."""
    problems += _no_jump(guest, mark)
    if at is not None:
        if guest.running:
            guest.unplug()
        first = guest.image.recipe.loader.first_partition
        places = ((ROOT, EDGE_MIB + first.mib if first else 0), (DATA, 0))
        problems += [
            f"a journal on {name} is left to be replayed"
            for name, start in places
            if needs_recovery(guest.workdir / name, start)
        ]
    return _Ending(tuple(problems), None if at is None else at - mark.at)
