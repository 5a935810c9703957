# SPDX-License-Identifier: MIT
"""How this boot came about, as `kexecctl report` tells it: from what, why not by kexec if not, and how long each part
took. Pure: what is told is in the Story.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from kexecd.handoff import Arrival, How
from kexecd.history import Attempt, Outcome
from kexecd.model import Way
from kexecd.report.timeline import Gap, Part, Span, Stage, Timeline
from kexecd.report.up import Up
from kexecd.report.words import TITLES, known_by, seconds

WAYS = {Way.ORDERLY: "in the init's order", Way.FAST: "--fast", Way.NOW: "--now"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """attempt: what became of the restart that led here, where that has been told.

    debt: kexecs since the firmware last had its turn.
    """

    arrival: Arrival
    attempt: Attempt | None
    up: Up
    timeline: Timeline
    debt: int

    @property
    def came_by_kexec(self) -> bool:
        return self.arrival.how is How.KEXEC


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a report. at, took: seconds, or None where it has none. depth: how far it is moved in."""

    text: str
    at: float | None = None
    took: float | None = None
    depth: int = 0


def head(story: Story, local_time: Callable[[float], str]) -> list[tuple[str, str]]:
    """What comes first, in pairs of a word and what it is."""
    pending, attempt, arrival = story.arrival.pending, story.attempt, story.arrival
    rows = [("this boot", _this_boot(story))]
    if pending and pending.nonce:
        kernel = pending.to_version or pending.to_entry_id
        trial = ", for a trial" if pending.trial else ""
        when = f"{local_time(pending.requested_at)}, {WAYS[pending.way]}{trial}"
        rows.append(("asked for", f"Linux {kernel} at {when}"))
    if attempt:
        rows.append(("outcome", f"{attempt.outcome}: {attempt.reason}" if attempt.reason else str(attempt.outcome)))
    elif arrival.how is How.KEXEC:
        rows.append(("outcome", "not confirmed yet" if pending and pending.limit else "nobody was asked to confirm it"))
    if story.debt:
        rows.append(("firmware", f"{story.debt} kexec{'s' if story.debt > 1 else ''} since it last had its turn"))
    if (downtime := story.timeline.downtime) is not None:
        rows.append(("down for", f"{seconds(downtime)}, from the commit point to the usual services"))
    return rows


def _this_boot(story: Story) -> str:
    here = f"Linux {story.up.release}, {story.up.init} as PID 1"
    if story.came_by_kexec:
        wrong = "" if story.arrival.as_planned else ", which is not the kernel that was meant"
        return f"{here}, by kexec from Linux {story.arrival.from_release}{wrong}"
    return f"{here}, not by a kexec of kexecd's: {story.arrival.reason}"


def lines(story: Story) -> Iterator[Line]:
    """The parts and what they are made of, in the order of the clock."""
    timeline = story.timeline
    for part, span in timeline.parts:
        yield Line(_part(part, timeline.gap), span.begin, span.seconds)
        if part is Part.DOWN:
            for stage in timeline.stages:
                yield from _stage(stage)
        elif part is Part.GAP and timeline.gap:
            yield from (Line(text, depth=1) for text in gap_notes(timeline.gap))
        elif part is Part.USERSPACE:
            for service in timeline.services:
                yield Line(service.name, service.begin, service.seconds, depth=1)


def _part(part: Part, gap: Gap | None) -> str:
    if part is Part.CHECKS:
        return f"{TITLES[part]}, until it was confirmed"
    return f"{TITLES[part]}: {known_by(gap)}" if part is Part.GAP and gap else TITLES[part]


def _stage(stage: Stage) -> Iterator[Line]:
    span = stage.span
    yield Line(f"{span.name}: failed: {span.text}" if span.failed else span.name, span.begin, span.seconds, depth=1)
    for slow in stage.slowest:
        yield Line(f"{slow.name} quit", slow.begin, slow.seconds, depth=2)


def gap_notes(gap: Gap) -> Iterator[str]:
    """What a gap is, and what it was measured with, as sentences without a full stop."""
    if gap.span.text:
        yield gap.span.text
    elif gap.before:
        yield f"{', '.join(gap.before)}, the jump, and the new kernel until its clock starts"
    yield f"measured {gap.by.sentence}"
    if gap.stepped:
        yield f"the wall clock was set by {gap.stepped:+.1f} s meanwhile"


def as_json(story: Story) -> dict[str, object]:
    """docs/report.md."""
    timeline, gap = story.timeline, story.timeline.gap
    return {
        "boot_id": story.up.boot_id,
        "release": story.up.release,
        "init": story.up.init,
        "how": story.arrival.how,
        "reason": story.arrival.reason,
        "as_planned": story.arrival.as_planned,
        "pending": asdict(story.arrival.pending) if story.arrival.pending else None,
        "attempt": asdict(story.attempt) if story.attempt else None,
        "confirmed": story.attempt is not None and story.attempt.outcome is Outcome.CONFIRMED,
        "kexecs_since_firmware": story.debt,
        "timeline": {
            "from_release": timeline.from_release,
            "way": timeline.way,
            "parts": [{"part": part, **_span(span)} for part, span in timeline.parts],
            "phases": [
                {**_span(stage.span), "failed": stage.span.failed, "text": stage.span.text}
                | {"slowest": [_span(slow) for slow in stage.slowest]}
                for stage in timeline.stages
            ],
            "services": [_span(service) for service in timeline.services],
            "gap": None
            if gap is None
            else {
                "seconds": round(gap.span.seconds, 6),
                "error": None if gap.error is None else round(gap.error, 6),
                "by": gap.by,
                "clock_stepped": gap.stepped,
                "phases": list(gap.before),
                "text": gap.span.text,
            },
            "committed": _rounded(timeline.committed),
            "confirmed": _rounded(timeline.confirmed),
            "downtime": _rounded(timeline.downtime),
            "troubles": list(timeline.troubles),
            "source": timeline.source,
        },
    }


def _span(span: Span) -> dict[str, object]:
    return {"name": span.name, "begin": round(span.begin, 6), "seconds": round(span.seconds, 6)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
