# SPDX-License-Identifier: MIT
"""Giving a new boot up: it restarts through the firmware, into the system that was there before.

The reason is written down for the next boot as far as a disk can be written, an image in memory is taken out, and PID 1
is asked for an ordinary restart that goes through the firmware. If it does not begin within 30 s, or does not come to
an end, the disks are closed without it and the machine is reset. The one who sees to that is a process that outlives
the service it comes from: an init that takes the machine down stops services first of all.

Whoever keeps the hardware watchdog has set it before: that is what is left if the kernel hangs on this way too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Protocol

from kexecd import handoff, state
from kexecd.errors import Refusal
from kexecd.init import finish
from kexecd.init.base import Init
from kexecd.kernel import cgroup, syscalls, sysfs, sysrq
from kexecd.model import Act, State, Way
from kexecd.state import Restart
from kexecd.wayback import oneshot
from kexecd.wayback.child import within

WRITING = 10.0
"""Seconds for the reason to be written: a disk that takes longer is part of the trouble."""

UNLOADING = 10.0
"""Seconds to take an image out of memory."""

ACCEPTING = 30.0
"""Seconds for PID 1 to begin to take this machine down."""

LOOK = 2.0
"""Seconds between two looks whether it has begun: an init has nothing else that tells."""

TAKING_DOWN = 150.0
"""Seconds from there to the restart: systemd gives a unit 90 s to stop, and then kills (DefaultTimeoutStopSec=)."""

SYNCING = 15.0
"""Seconds to write back what can be written, before the machine is reset."""

CLOSING = 3.0
"""Seconds for the kernel to make everything read-only."""

LAST = ACCEPTING + TAKING_DOWN + SYNCING + CLOSING + finish.TAKEOVER + finish.RESET
"""Seconds after which this machine has restarted, unless the kernel hangs."""

Tell = Callable[[str], None]


class Deeds(Protocol):
    """What is done to the machine, as an object: in a test, nothing is."""

    def write_down(self, why: str) -> None:
        """For the next boot, and have the boot loader not lead here once more. Raises OSError."""

    def unload(self) -> None:
        """Take an image out of memory, whoever loaded it. Raises OSError or a Refusal."""

    def want_firmware(self) -> None:
        """Leave word for those who ask on the way down (kexecd.init.wishes). Raises OSError."""

    def ask(self) -> None:
        """PID 1 for an ordinary restart. Raises a Refusal."""

    def begun(self) -> bool:
        """Whether PID 1 is taking the machine down."""

    def sync(self) -> None:
        """Write back; may never return."""

    def close(self) -> None:
        """Have the kernel begin to make everything read-only. Raises OSError."""

    def reset(self, tell: Tell) -> None:
        """Restart without asking anybody to stop; returns only by raising."""


class RealDeeds:
    def __init__(self, init: Init, run_dir: str, state_dir: str) -> None:
        self._init, self._run_dir, self._state_dir = init, run_dir, state_dir

    def write_down(self, why: str) -> None:
        handoff.give_up(why, self._state_dir)
        pending = handoff.expected(self._state_dir)
        # A choice that nobody could hold back is this very boot: the loader would come here again.
        if pending and pending.one_shot:
            trouble = oneshot.clear_left(pending.from_boot_id, self._state_dir)
            if trouble:
                raise OSError(trouble)

    def unload(self) -> None:
        if sysfs.kexec_loaded():
            syscalls.kexec_unload()

    def want_firmware(self) -> None:
        wish = Restart(state=State.PREPARED, way=Way.ORDERLY, act=Act.FIRMWARE, loaded=False, since=time.time())
        state.write(wish, self._run_dir)

    def ask(self) -> None:
        self._init.restart(Act.FIRMWARE)

    def begun(self) -> bool:
        return self._init.going_down()

    def sync(self) -> None:
        os.sync()

    def close(self) -> None:
        sysrq.remount_read_only()

    def reset(self, tell: Tell) -> None:
        finish.finish(self._init, Act.FIRMWARE, alone=False, tell=tell)


def give_up(why: str, deeds: Deeds, tell: Tell) -> None:
    """Begin; somebody who outlives us sees it through. Returns at once."""
    tell(f"this boot is given up: {why}; this machine restarts through the firmware")
    _try("the reason could not be written down", WRITING, lambda: deeds.write_down(why), tell)
    _try("the image could not be taken out of memory", UNLOADING, deeds.unload, tell)
    _try("the wish for the firmware could not be left", WRITING, deeds.want_firmware, tell)
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            _detach()
            os.close(writer)
            see_through(deeds, tell)
        finally:
            os._exit(1)
    os.close(writer)
    os.read(reader, 1)  # until it is away: an init ends a service as a whole when its first process has
    os.close(reader)


def see_through(deeds: Deeds, tell: Tell, *, now: Callable[[], float] = time.monotonic) -> None:
    """Have the machine restarted, by PID 1 if that does it, else without it."""
    end = now() + ACCEPTING
    refused = within("PID 1", ACCEPTING, lambda: _asked(deeds))
    if refused:
        tell(f"PID 1 does not restart this machine: {refused}")
    while not refused and now() < end and not _begun(deeds):
        time.sleep(min(LOOK, max(0.0, end - now())))
    if not refused and _begun(deeds):
        time.sleep(TAKING_DOWN)
        tell(f"PID 1 has begun, and come to no end within {TAKING_DOWN:g} s")
    elif not refused:
        tell(f"PID 1 has not begun within {ACCEPTING:g} s")
    tell("closing the disks without PID 1, and resetting the machine")
    _try("not everything could be written back", SYNCING, deeds.sync, tell)
    with contextlib.suppress(OSError):  # not every kernel has it
        deeds.close()
        time.sleep(CLOSING)
    deeds.reset(tell)


def _begun(deeds: Deeds) -> bool:
    """A PID 1 that does not answer has not begun; asked in a child, since it may not answer at all."""
    return within("PID 1", ACCEPTING / 2, lambda: "" if deeds.begun() else "no") == ""


def _asked(deeds: Deeds) -> str:
    try:
        deeds.ask()
    except Refusal as refusal:
        return f"{refusal.what}: {refusal.why}"
    return ""


def _try(failed: str, seconds: float, deed: Callable[[], None], tell: Tell) -> None:
    """One that cannot be done keeps none of the others from being done."""

    def work() -> str:
        deed()
        return ""

    if why := within("it", seconds, work):
        tell(f"{failed}: {why}, going on without")


def _detach() -> None:
    """Away from the service that is stopped: its control group, its session, its number.

    A TERM ends us: now it comes from a PID 1 that has stopped all services, and that waits for whoever is left.
    """
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    cgroup.leave()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
