# SPDX-License-Identifier: MIT
"""The hardware watchdog over a kexec: left running just before the jump, sized anew in the new boot, given back.

Before the jump it is set to the time that the new boot has to be confirmed in, and left running: a kernel that hangs is
reset then. Which watchdog and for how long is decided when an image is loaded, and written down for jump.py, which has
no time to think. Not where the new kernel could not switch it off again: then a good boot would be reset too.

What becomes of it in the kernel, seen with i6300esb on Linux 6.12:
- most drivers switch it off at the jump, in a notifier of the old kernel; only watchdog.stop_on_reboot=0, on the old
  kernel's command line or as an option of the module `watchdog` (Linux 5.5 and newer), leaves it running.
- the new kernel's driver switches it off when it finds the device, or has the kernel ping it (WDOG_HW_RUNNING): from
  there on it watches nothing. So the one that waits for the new boot starts it again, for what is left of the time.

Nobody else is kept from it: it is opened, set and let go, so that a daemon or PID 1 can take it over at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kexecd import record
from kexecd.config.policy import Policy, read_policy
from kexecd.errors import Refusal
from kexecd.kernel import watchdog
from kexecd.kernel.descriptors import readable
from kexecd.kernel.files import read_text, remove, write_atomic
from kexecd.kernel.watchdog import Held, Outlook, Watchdog
from kexecd.model import ImageRecord
from kexecd.wayback.begin import is_confirmed

NAME = "watchdog"
"""In the run directory: the device and the seconds, as jump.py reads them; no file, nothing to do."""

OPENING = 3.0
"""Seconds for a driver to be opened and set; that of an IPMI controller asks somebody else."""


def arm(found: Outlook, run_dir: str) -> None:
    """Write down for the jump what is to be left running; or that nothing is. Raises OSError."""
    path = os.path.join(run_dir, NAME)
    if found.device:
        write_atomic(path, f"{found.device} {found.seconds}\n".encode())
    elif os.path.isdir(run_dir):
        remove(path)


def arm_for(image: ImageRecord, run_dir: str) -> None:
    """The same for what has been loaded. Raises nothing: without it a kexec is what it was before."""
    policy = Policy(confirm_watchdog=False)
    with contextlib.suppress(Refusal):
        policy = read_policy()
    # Where nobody waits for the new boot, nobody would switch it off again.
    waited_for = policy.confirm_watchdog and policy.confirm_limit and is_confirmed(image)
    with contextlib.suppress(OSError):
        arm(watchdog.outlook(image.version, policy.confirm_limit) if waited_for else Outlook(), run_dir)


def armed(run_dir: str) -> tuple[str, int] | None:
    """The device and the seconds that were written down, for an image that is still ours."""
    with contextlib.suppress(OSError, ValueError):
        os.stat(os.path.join(run_dir, record.NAME))
        device, seconds = (read_text(os.path.join(run_dir, NAME)) or "").split()
        return device, int(seconds)
    return None


def leave_running(run_dir: str, *, held: Callable[[str], Held] = Held, seconds: float = OPENING) -> str:
    """Do what was written down, as the last thing before a jump; returns what came of it, as a sentence or nothing.

    In a child, since a driver may take its time, and because the descriptor of one that stops when it is closed has to
    outlive whoever asks.
    """
    wanted = armed(run_dir)
    if wanted is None:
        return ""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(reader)
        _leave(*wanted, writer, held)
    os.close(writer)
    try:
        if not readable(reader, seconds):
            return f"{wanted[0]} could not be set within {seconds:g} s, going on without"
        return os.read(reader, 1 << 12).decode(errors="replace")
    finally:
        os.close(reader)


@dataclass(slots=True)
class Watch:
    """The watchdog while a new boot is waited for. wanted: whether PID 1 is to have it for itself."""

    wanted: Callable[[], bool]
    found: Callable[[], Iterable[Watchdog]] = watchdog.found
    held: Callable[[str], Held] = Held
    ours: dict[str, Held | None] = field(default_factory=dict)  # by device; those that had to stay open are held
    refused: set[str] = field(default_factory=set)  # of these others take care

    def renew(self, seconds: float) -> float | None:
        """Have each that is there reset the machine after so many seconds from now, or as late as it can.

        Returns the seconds after which it has to be done again, None if that is not needed. Raises nothing.
        """
        again: float | None = None
        for dog in self.found():
            if dog.device in self.refused or (dog.nowayout and dog.device not in self.ours):
                continue  # what cannot be switched off again is not started
            if dog.device not in self.ours and self.wanted():
                self.refused.add(dog.device)
                continue
            given = self._set(dog, min(seconds, dog.most or seconds))
            if given and given < seconds:
                again = min(again or given / 2, given / 2)
        return again

    def give_back(self) -> tuple[str, ...]:
        """Switch off what was started here; returns what cannot be. Raises nothing."""
        failed = []
        for device, kept in self.ours.items():
            try:
                (kept or self.held(device)).stop()
            except OSError as error:
                if error.errno != errno.EBUSY:  # somebody has taken it over, and pings it
                    failed.append(f"{device} could not be switched off: {error.strerror}")
        self.ours.clear()
        return tuple(failed)

    def _set(self, dog: Watchdog, seconds: float) -> int:
        """What it was set to; 0 if it is somebody else's, or cannot be had."""
        try:
            mine = self.ours.get(dog.device) or self.held(dog.device)
            given = mine.set(seconds)
            mine.leave_running()
        except OSError:
            self.refused.add(dog.device)
            self.ours.pop(dog.device, None)
            return 0
        self.ours[dog.device] = None if mine.outlives_closing else mine
        return given


def _leave(device: str, seconds: int, writer: int, held: Callable[[str], Held]) -> None:
    """In the child: set it, say so, and stay if it would stop otherwise."""
    try:
        os.closerange(3, writer)  # a copy of somebody's end of a channel would keep that alive
        os.closerange(writer + 1, 1 << 20)
        stays = False
        try:
            dog = held(device)
            given = dog.set(seconds)
            dog.leave_running()
            stays = not dog.outlives_closing
            said = f"{device} resets this machine if the new kernel hangs, after {given} s"
        except OSError as error:
            who = "somebody else keeps it" if error.errno == errno.EBUSY else (error.strerror or str(error)).lower()
            said = f"{device} is not set to watch over the new kernel: {who}"
        os.write(writer, said.encode())
        os.close(writer)
        while stays:
            signal.pause()
    finally:
        os._exit(0)
