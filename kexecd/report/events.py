# SPDX-License-Identifier: MIT
"""An event as a line of JSON and as a line for people, and the places where they are written on the way down.

None of these places may hold the machine: each is opened so that a write never waits, and one that fails is passed
over.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping

from kexecd.model import Event, EventKind

EVENTS_FILE = "events.jsonl"

A_WHILE = 0.1
"""Seconds from which on a phase is worth telling anybody of its end: consoles are slow, and journald, which is waited
for itself, takes as long for a message as an emptied machine takes for a phase."""

PERIOD = 1.0
"""Seconds between two times that a console is told how long it will take."""


def as_json(event: Event) -> dict[str, object]:
    fields: dict[str, object] = {
        "kind": str(event.kind),
        "at": round(event.at, 3),
        "phase": event.phase,
        "step": event.step,
        "text": event.text,
        "seconds": round(event.seconds, 3),
    }
    return fields | {"verdict": event.verdict.as_json()} if event.verdict else fields


def parse(record: Mapping[str, object]) -> Event:
    """The reverse of as_json, but for the verdict's parts: its sentence is in `text`."""
    return Event(
        kind=EventKind(str(record["kind"])),
        at=float(str(record["at"])),
        phase=str(record["phase"]),
        step=str(record["step"]),
        text=str(record["text"]),
        seconds=float(str(record["seconds"])),
    )


def as_text(event: Event) -> str:
    """One line, or nothing for what only a program wants."""
    name = event.step or event.phase
    match event.kind:
        case EventKind.PLAN:
            return f"going down: {event.text}"
        case EventKind.PHASE:
            return ""
        case EventKind.STEP:
            return f"{event.phase}: {event.text}"
        case EventKind.DONE:
            return f"{name}: done, {event.seconds:.2f} s" if not event.step and event.seconds >= A_WHILE else ""
        case EventKind.FAILED:
            return f"{name}: failed after {event.seconds:.2f} s: {event.text}"
        case EventKind.NOTE:
            return f"{name}: {event.text}" if name else event.text
        case EventKind.UNDONE:
            return f"{name}: undone"
        case EventKind.STATE | EventKind.QUIT:
            return ""
        case EventKind.COMMIT:
            return f"commit point: {event.text}"
        case EventKind.VERDICT:
            return f"verdict: {event.text}"
        case EventKind.ACT:
            return event.text


class Sinks:
    """Every place that gets the events.

    text: descriptors for people, who also want to know how long it will take; lines: descriptors for JSON lines.
    plain: descriptors for whoever asked, as text, in lines. log: the system's. within: seconds from the commit point to
    the deadline.
    """

    def __init__(
        self,
        text: Iterable[int],
        lines: Iterable[int],
        *,
        plain: Iterable[int] = (),
        log: Callable[[Event], None] | None = None,
        within: float = 0.0,
    ) -> None:
        self._text, self._lines, self._plain, self._log = tuple(text), tuple(lines), tuple(plain), log
        self._within, self._deadline = within, 0.0
        self._next = 0.0  # when it is time to say how much is left

    def __call__(self, event: Event) -> None:
        self._write(self._lines, json.dumps(as_json(event)) + "\n")
        if text := self._for_people(event):
            self._write(self._text, f"kexecd: {text}\r\n")
        if self._plain and (text := as_text(event)):
            self._write(self._plain, text.replace("\0", "") + "\n")
        if self._log:
            self._log(event)

    def _for_people(self, event: Event) -> str:
        if event.kind is EventKind.COMMIT and self._within:
            self._deadline = event.at + self._within
        if event.kind is EventKind.PHASE and self._deadline and event.at >= self._next:
            self._next = event.at + PERIOD
            left = self._deadline - event.at
            return f"{event.phase}: {left:.1f} s are left" if left > 0 else f"{event.phase}: {-left:.1f} s late"
        return as_text(event)

    def _write(self, fds: tuple[int, ...], text: str) -> None:
        data = text.encode(errors="replace")
        for fd in fds:
            with contextlib.suppress(OSError):  # nobody reads it any more, or it is full
                os.write(fd, data)


def open_quietly(path: str, flags: int) -> tuple[int, ...]:
    """The descriptor of a place that may not be there, as a tuple of one or none."""
    try:
        return (os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o600),)
    except OSError:
        return ()
