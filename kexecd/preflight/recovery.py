# SPDX-License-Identifier: MIT
"""What comes after the jump: the crash kernel, the clock, the watchdog; and what speaks for the firmware this time."""

from __future__ import annotations

from collections.abc import Iterator

from kexecd import handoff
from kexecd.handoff import How
from kexecd.kernel import sysfs
from kexecd.kernel import watchdog as watchdogs
from kexecd.kernel.files import join_root
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Flaw
from kexecd.preflight.turn import FIRMWARE

CLOCKS_DIFFER = 120
"""Seconds between the hardware's clock and the system's that are more than drift."""

ZONES = 15 * 60
"""Seconds: local times differ from UTC by multiples of it."""

SOON = 60
"""Seconds in which a new kernel with its initrd has come far enough to feed a watchdog, on nearly every machine."""


def crash_kernel(facts: Facts) -> Iterator[Flaw]:
    if sysfs.crash_loaded(facts.root) and facts.cmdline is not None and not facts.cmdline.has("crashkernel"):
        why = "a crash kernel is loaded now, and the new kernel's command line has no crashkernel= to keep room for one"
        yield Flaw(why, "add it, with --set crashkernel=... or in the boot loader's configuration")


def firmware_wish(facts: Facts) -> Iterator[Flaw]:
    if wish := facts.subject.firmware_wish:
        yield Flaw(f"{wish}, and a kexec never gets there", f"{FIRMWARE}, or take that wish back")


def last_kexec(facts: Facts) -> Iterator[Flaw]:
    arrival = handoff.arrival(join_root(facts.root, facts.state_dir), root=facts.root)
    if arrival.how is How.OTHER:
        why = f"the kexec that was asked for last did not happen or did not arrive: {arrival.reason}"
        yield Flaw(why, "look at what the last boot's log says about it before you try again")


def clock(facts: Facts) -> Iterator[Flaw]:
    told = facts.read("/sys/class/rtc/rtc0/since_epoch")
    if not told.isdecimal():
        return
    differs = abs(facts.now() - int(told))
    if "LOCAL" in facts.read("/etc/adjtime"):
        differs = min(differs % ZONES, ZONES - differs % ZONES)
    if differs > CLOCKS_DIFFER:
        why = f"the hardware's clock is {differs:.0f} s off the system's, and the new kernel begins with the hardware's"
        yield Flaw(why, "run hwclock --systohc")


def watchdog(facts: Facts) -> Iterator[Flaw]:
    """Documentation/ABI/testing/sysfs-class-watchdog. Most drivers do not stop a watchdog that runs when they start."""
    for name in facts.listing("/sys/class/watchdog"):
        top = f"/sys/class/watchdog/{name}"
        seconds = facts.read(f"{top}/timeout")
        if facts.read(f"{top}/state") == "active" and seconds.isdecimal() and int(seconds) < SOON:
            what = facts.read(f"{top}/identity") or name
            why = f"the watchdog {what} resets this machine when nobody feeds it for {seconds} s, as during a start"
            yield Flaw(why, f"give it {SOON} s or more, with RuntimeWatchdogSec= or in its daemon's configuration")
            return
    subject = facts.subject
    version = subject.target.entry.version if subject.target else subject.image.version if subject.image else ""
    ahead = watchdogs.outlook(version, SOON, facts.root)
    if version and not ahead.device:
        yield Flaw(ahead.sentence(), ahead.remedy)
