# SPDX-License-Identifier: MIT
"""One restart on one axis: the way down, the gap in which nobody could write, and the way up. Pure.

Zero is where the way down begins; of a boot whose way down nobody has written it is the kernel's start.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kexecd.model import Event, EventKind, Way
from kexecd.report.clock import By, Join, join
from kexecd.report.down import PID_1, Down
from kexecd.report.up import Service, Up

PID_1_CLOSES = "PID 1 ends what is left and closes the disks"


YOUNG = 600.0
"""Seconds until which a boot that is not over may still be at it; later nobody can tell when it was."""


class Part(StrEnum):
    """What a restart is made of, in this order."""

    DOWN = "down"  # from the first step of the plan to the last event that could be written
    GAP = "gap"  # to the new kernel's start: disks are closed, the jump or the firmware, the kernel unpacks itself
    KERNEL = "kernel"  # to the initrd, or to the init where there is none
    INITRD = "initrd"  # to the init that stays
    USERSPACE = "userspace"  # to the usual target or runlevel
    CHECKS = "checks"  # to the confirmation


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds on the axis. text: what it was for, or why it failed."""

    name: str
    begin: float
    end: float
    text: str = ""
    failed: bool = False

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Stage:
    """A phase of the way down, with the processes that were the slowest to end in it, slowest first."""

    span: Span
    slowest: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """error: seconds by which it may be wrong; None: nobody can tell. by: the clock that it was measured with.

    stepped: seconds by which the wall clock was set meanwhile. before: what was still to come of the way down.
    """

    span: Span
    error: float | None
    by: By
    stepped: float = 0.0
    before: tuple[str, ...] = ()

    @property
    def least(self) -> float:
        return max(0.0, self.span.seconds - (self.error or 0.0))

    @property
    def most(self) -> float:
        return self.span.seconds + (self.error or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """parts: those that are known, in order and without a hole between them.

    committed: when the machine began to go down for certain. confirmed: when the new boot was found healthy.
    """

    from_release: str
    release: str
    way: Way | None
    kexec: bool
    parts: tuple[tuple[Part, Span], ...]
    stages: tuple[Stage, ...] = ()
    troubles: tuple[str, ...] = ()  # what failed on the way down, as sentences
    gap: Gap | None = None
    services: tuple[Span, ...] = ()
    committed: float | None = None
    confirmed: float | None = None
    source: str = ""

    def part(self, part: Part) -> Span | None:
        return next((span for which, span in self.parts if which is part), None)

    @property
    def end(self) -> float:
        return self.parts[-1][1].end if self.parts else 0.0

    @property
    def downtime(self) -> float | None:
        """Seconds from the commit point to the usual target; None where one of both is not known."""
        last = self.part(Part.USERSPACE)
        return last.end - self.committed if last and self.committed is not None and self.gap else None


def build(
    down: Down | None, up: Up, *, kexec: bool, to_come: tuple[str, ...] = (), in_between: str = ""
) -> Timeline:
    """kexec: nothing lies between the two boots but our jump. to_come: the names of all phases of the plan.

    in_between: what happened in the gap, if it was not one jump.
    """
    stages = stages_of(down.events) if down else ()
    began = _began(down)
    joined = join(down.moment, up.moment, kexec=kexec) if down else None
    start = joined.start - began if joined else 0.0
    parts: list[tuple[Part, Span]] = []
    gap = None
    if down and joined:
        last = _last(down.events, began)
        start = max(start, last)
        parts.append((Part.DOWN, Span(Part.DOWN, 0.0, last)))
        before = (PID_1_CLOSES,) if down.way is Way.ORDERLY else _remaining(to_come, stages)
        gap = _gap(joined, last, start, before, in_between)
        parts.append((Part.GAP, gap.span))
    parts += _way_up(up, start)
    return Timeline(
        from_release=down.release if down else "",
        release=up.release,
        way=down.way if down else None,
        kexec=kexec,
        parts=tuple(parts),
        stages=stages,
        troubles=_troubles(down),
        gap=gap,
        services=tuple(_on_axis(service, start) for service in up.marks.services),
        committed=_committed(down),
        confirmed=None if up.confirmed is None else start + up.confirmed,
        source=up.marks.source,
    )


def stages_of(events: tuple[Event, ...]) -> tuple[Stage, ...]:
    """The phases in their order, on the axis; one that was not over lasts until the last event."""
    if not events:
        return ()
    zero, found = events[0].at, {}
    last = _last(events, zero)
    for number, event in enumerate(events):
        if event.kind is EventKind.PHASE:
            end, failed = last, ""
            slowest = []
            for later in events[number + 1 :]:
                if later.phase != event.phase:
                    continue
                if later.kind is EventKind.DONE and not later.step:
                    end = later.at - zero
                    break
                if later.kind is EventKind.FAILED:
                    failed = failed or later.text
                if later.kind is EventKind.QUIT:
                    at = later.at - zero
                    slowest.append(Span(later.text, at - later.seconds, at))
            span = Span(event.phase, event.at - zero, end, failed or event.text, bool(failed))
            found[number] = Stage(span, tuple(sorted(slowest, key=lambda one: -one.seconds)))
    return tuple(found.values())


def _began(down: Down | None) -> float:
    """On the old boot's own clock."""
    return down.events[0].at if down and down.events else down.moment.boottime if down else 0.0


def _last(events: tuple[Event, ...], zero: float) -> float:
    return max((event.at - zero for event in events), default=0.0)


def _committed(down: Down | None) -> float | None:
    """Where PID 1 takes the machine down it is when that begins to stop what runs."""
    events = down.events if down else ()
    for event in events:
        by_pid_1 = down and down.way is Way.ORDERLY and event.kind is EventKind.PHASE and event.phase == PID_1
        if event.kind is EventKind.COMMIT or by_pid_1:
            return event.at - events[0].at
    return None


def _troubles(down: Down | None) -> tuple[str, ...]:
    failed = (event for event in (down.events if down else ()) if event.kind is EventKind.FAILED)
    return tuple(f"{event.step or event.phase}: {event.text}" for event in failed)


def _remaining(names: tuple[str, ...], stages: tuple[Stage, ...]) -> tuple[str, ...]:
    """The phases behind the last one that was written of, which may itself have been under way."""
    last = stages[-1].span.name if stages else ""
    return names[names.index(last) :] if last in names else ()


def _gap(joined: Join, last: float, start: float, before: tuple[str, ...], in_between: str) -> Gap:
    span = Span(Part.GAP, last, start, in_between)
    return Gap(span, joined.error, joined.by, joined.stepped, before)


def _way_up(up: Up, start: float) -> list[tuple[Part, Span]]:
    marks = up.marks
    begins: list[tuple[Part, float]] = [(Part.KERNEL, 0.0)]
    begins += [(Part.INITRD, marks.initrd)] if marks.initrd is not None else []
    begins += [(Part.USERSPACE, marks.userspace)] if marks.userspace is not None else []
    begins += [(Part.CHECKS, marks.ready)] if marks.ready is not None and up.confirmed is not None else []
    over = marks.ready if up.confirmed is None else up.confirmed
    if over is None and up.moment.boottime < YOUNG:
        over = up.moment.boottime
    ends = [begin for _, begin in begins[1:]] + [over]
    spans = []
    for (part, begin), end in zip(begins, ends, strict=True):
        # Else it was confirmed while the init was still at something that nobody waits for; or nobody says its end.
        if end is not None and end >= begin:
            spans.append((part, Span(part, start + begin, start + end)))
    return spans


def _on_axis(service: Service, start: float) -> Span:
    return Span(service.name, start + service.begin, start + service.end)
