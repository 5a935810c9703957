# SPDX-License-Identifier: MIT
"""One restart as its records tell it, with figures of an emulated guest; the goldens beside this are made of it.

`python -m tests.unit.report.sample` writes the goldens anew, to be looked at before they are believed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kexecd.handoff import Arrival, How, PendingHandoff
from kexecd.history import Attempt, Outcome
from kexecd.model import Event, EventKind, Way
from kexecd.report.clock import Moment
from kexecd.report.down import Down
from kexecd.report.metrics import exposition
from kexecd.report.plot import svg
from kexecd.report.story import Story
from kexecd.report.timeline import Timeline, build
from kexecd.report.up import Marks, Service, Up

GOLDEN = Path(__file__).parent / "golden"
OLD, NEW = "6.1.0-56-cloud-amd64", "6.12.117+deb12-cloud-amd64"
OLD_BOOT, NEW_BOOT = "0b000000-0000-4000-8000-00000000000d", "0e000000-0000-4000-8000-00000000000e"
HERTZ = 2.6e9
ASKED = 1795343177.0  # when, since the epoch
PLAN = tuple("record announce services hold applications processes sync unmount read-only verdict".split())


def events(zero: float = 24.9) -> tuple[Event, ...]:
    """zero: how old the old boot was when the way down began."""

    def phase(name: str, begin: float, seconds: float, *between: Event) -> tuple[Event, ...]:
        start = Event(EventKind.PHASE, zero + begin, name, text=f"why {name}")
        return (start, *between, Event(EventKind.DONE, zero + begin + seconds, name, seconds=seconds))

    def quit(phase: str, who: str, end: float, seconds: float) -> Event:
        return Event(EventKind.QUIT, zero + end, phase, text=who, seconds=seconds)

    return (
        Event(EventKind.PLAN, zero, text="fast, 10 s"),
        *phase("record", 0.03, 0.07),
        *phase("announce", 0.11, 0.01),
        Event(EventKind.COMMIT, zero + 0.13, "services"),
        *phase("services", 0.13, 1.37),
        *phase("hold", 1.51, 0.01),
        *phase(
            "applications", 1.53, 2.26,
            quit("applications", "postgres (812)", 3.7, 2.1),
            quit("applications", "redis-server (813)", 2.4, 0.8),
            quit("applications", "a <name> & \x1b[31mmore, which is much too long (814)", 1.7, 0.12),
        ),
        *phase(
            "processes", 3.80, 1.3,
            quit("processes", "systemd-journal (186)", 5.05, 1.2),
            Event(EventKind.FAILED, zero + 5.0, "processes", "processes", "left behind: nfsd (99)", 1.2),
        ),
        Event(EventKind.PHASE, zero + 5.13, "sync", text="why sync"),
        Event(EventKind.STEP, zero + 5.14, "sync", "keep", "write down what has happened"),
    )  # fmt: skip


def down() -> Down:
    boottime = 30.06
    moment = Moment(
        boottime=boottime,
        realtime=ASKED + boottime - 24.9,
        hardware=ASKED + boottime - 24.9 + 0.3,
        hardware_error=0.5,
        cycles=round(boottime * HERTZ),
        hertz=HERTZ,
        counter_error=0.0005,
    )
    return Down(nonce="84526b44a7853e1c", boot_id=OLD_BOOT, release=OLD, way=Way.FAST, moment=moment, events=events())


def up(confirmed: float | None = 16.2) -> Up:
    """Its kernel has started 1.71 s after the last event: 31.75 s on the old boot's clock."""
    boottime = 21.2
    start = 31.75
    moment = Moment(
        boottime=boottime,
        realtime=ASKED + start + boottime - 24.9 + 0.4,
        hardware=ASKED + start + boottime - 24.9 + 0.3,
        hardware_error=0.02,
        cycles=round((start + boottime) * HERTZ),
        hertz=HERTZ,
        counter_error=0.0005,
    )
    marks = Marks(
        initrd=2.285,
        userspace=3.731,
        ready=14.8,
        services=(
            Service("dev-vda.device", 3.9, 7.4),
            Service("systemd-udev-trigger.service", 5.1, 6.4),
            Service("kexecd-finish.service", 7.0, 13.5),
            Service("postgresql.service", 8.1, 14.6),
        ),
        source="systemd and the kernel's log",
    )
    return Up(boot_id=NEW_BOOT, release=NEW, init="systemd", moment=moment, marks=marks, confirmed=confirmed)


def pending() -> PendingHandoff:
    return PendingHandoff(
        nonce="84526b44a7853e1c",
        from_boot_id=OLD_BOOT,
        from_release=OLD,
        to_entry_id="debian-6.12",
        to_version=NEW,
        way=Way.FAST,
        requested_at=ASKED,
        plan=PLAN,
        limit=300.0,
    )


def attempt(outcome: Outcome = Outcome.CONFIRMED, reason: str = "graphical.target is reached") -> Attempt:
    return Attempt(
        nonce="84526b44a7853e1c",
        outcome=outcome,
        reason=reason,
        machine="0123456789abcdef",
        from_release=OLD,
        from_boot_id=OLD_BOOT,
        to_entry_id="debian-6.12",
        to_version=NEW,
        kernel_sha256="",
        way=Way.FAST,
        trial=False,
        requested_at=ASKED,
        arrived_at=ASKED + 6.85,
        settled_at=ASKED + 23.05,
        settled_in=NEW_BOOT,
        boot_id=NEW_BOOT,
    )


def timeline() -> Timeline:
    return build(down(), up(), kexec=True, to_come=PLAN)


def story() -> Story:
    arrival = Arrival(How.KEXEC, "the command line carries kexecd.nonce=84526b44a7853e1c", NEW, pending(), 6.85)
    return Story(arrival=arrival, attempt=attempt(), up=up(), timeline=timeline(), debt=1)


def failed() -> Story:
    """The same kexec, tried and failed: the firmware has brought this boot, two minutes later."""
    reason = "Kernel panic - not syncing: VFS: Unable to mount root fs"
    here = up(None)
    assert here.moment.hardware
    later, second = here.moment.realtime + 120, here.moment.hardware + 120
    late = replace(here, release=OLD, moment=replace(here.moment, realtime=later, hardware=second, hertz=0.0))
    told = "the kexec was tried and failed"
    arrival = Arrival(How.OTHER, f"there was a kexec, and the new kernel gave itself up: {reason}", OLD, pending())
    return Story(
        arrival=arrival,
        attempt=attempt(Outcome.FAILED, reason),
        up=late,
        timeline=build(down(), late, kexec=False, to_come=PLAN, in_between=told),
        debt=0,
    )


def made() -> dict[str, str]:
    """What the goldens should be, by their names."""
    past = (attempt(Outcome.FAILED, "a panic"), attempt(), attempt(Outcome.REFUSED, 'a "reason"'))
    only_up = build(None, up(None), kexec=False)
    return {
        "fast.svg": svg(timeline()),
        "failed.svg": svg(failed().timeline),
        "up.svg": svg(only_up),
        "metrics.prom": exposition(story(), past, denied=1),
    }


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, text in made().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
