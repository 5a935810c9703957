# SPDX-License-Identifier: MIT
"""What kexecd says in the system's log: kinds of messages, each with an id that never changes (docs/logs.md).

The ids are random UUIDs, made once, as journald wants them (systemd.journal-fields(7), MESSAGE_ID). The priorities are
those of syslog(3), which journald shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from kexecd.model import Cleanliness, Event, EventKind
from kexecd.report.events import as_text


class Priority(IntEnum):
    ERROR = 3
    WARNING = 4
    NOTICE = 5  # what a person who reads no more than this wants to have seen
    INFO = 6


class Kind(StrEnum):
    """What a message is about. The first ones are the executor's events."""

    PLAN = "plan"
    STEP = "step"
    DONE = "done"
    FAILED = "failed"
    NOTE = "note"
    UNDONE = "undone"
    STATE = "state"
    COMMIT = "commit"
    VERDICT = "verdict"
    ACT = "act"
    LOADED = "loaded"
    DROPPED = "dropped"
    REFUSED = "refused"
    ARRIVED = "arrived"
    CONFIRMED = "confirmed"
    GIVEN_UP = "given-up"
    CAME_BACK = "came-back"
    CARRIED = "carried"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Row:
    """A kind's message id, its priority unless there is reason for another, and when it comes."""

    id: str
    priority: Priority
    when: str


ROWS = {
    Kind.PLAN: Row("0da8ba1f8a8349d196c3002a3246a50a", Priority.NOTICE, "a way down begins"),
    Kind.STEP: Row("792c2c76f3114390bff0cfe5dfce40c5", Priority.INFO, "a step of it begins"),
    Kind.DONE: Row("7de38e665c5147dba01088b7901967fe", Priority.INFO, "a phase of it has ended well, after a while"),
    Kind.FAILED: Row("1dd919bc046b4601b318032415943dc7", Priority.WARNING, "a step has failed"),
    Kind.NOTE: Row("cb69cac345204d1fbba6c9bc8c0b7fa3", Priority.INFO, "something that a person would want to know"),
    Kind.UNDONE: Row("f88233ef26664ef28d591f97d62b160f", Priority.NOTICE, "a step has been taken back"),
    Kind.STATE: Row("a43584a66c54492fa4d73b74992a32fe", Priority.INFO, "the restart has reached another state"),
    Kind.COMMIT: Row("24baf1f952634052b3393661815a1444", Priority.NOTICE, "from here on the machine goes down"),
    Kind.VERDICT: Row("a806a41e5ef64719a9e545d6c8a512ea", Priority.NOTICE, "what is left when it is down"),
    Kind.ACT: Row("c0aeeafaf88046b8b79d2bb99958b949", Priority.NOTICE, "the irreversible act, or who does it"),
    Kind.LOADED: Row("bba2dc7a70984e69aef560b25d4ae14b", Priority.NOTICE, "an image is in memory for this restart"),
    Kind.DROPPED: Row("870030a1bd1c40cfa49a5d2772487167", Priority.NOTICE, "an image was taken out of memory"),
    Kind.REFUSED: Row("72d6d4cf78ac43c68a2dfb21f1bc9430", Priority.WARNING, "a restart that was to be a kexec is none"),
    Kind.ARRIVED: Row("78d554372eb34f8f8e62c3fed4080d37", Priority.NOTICE, "in the new boot: how it came about"),
    Kind.CONFIRMED: Row("02b79c295fec4e739a8f0c3be6b3899d", Priority.NOTICE, "this boot was found good after a kexec"),
    Kind.GIVEN_UP: Row("8f81cd75ce064d6f97be89a42e591e9f", Priority.ERROR, "this boot was not, and goes back"),
    Kind.CAME_BACK: Row("df15d4572f6a4fdaaf4f0228b77b4290", Priority.WARNING, "a kexec failed, its kernel is denied"),
    Kind.CARRIED: Row("43615470f56c4e23b5d29ca94a481984", Priority.NOTICE, "memory of applications goes along"),
    Kind.LOST: Row("a3d94b9cf6454910b460297ca09ec26d", Priority.WARNING, "memory of applications will be lost"),
}


@dataclass(frozen=True, slots=True)
class Message:
    """One message. fields: names in capitals, of journald's; who has no fields gets the text alone."""

    kind: Kind
    text: str
    priority: Priority
    fields: tuple[tuple[str, str], ...] = ()


def message(kind: Kind, text: str, priority: Priority | None = None, **fields: object) -> Message:
    """`fields` that are empty are left out."""
    told = tuple((f"KEXECD_{name.upper()}", str(value)) for name, value in fields.items() if value not in ("", None))
    return Message(kind, text, ROWS[kind].priority if priority is None else priority, told)


def of_event(event: Event) -> Message | None:
    """None for what only a program wants, and reads in events.jsonl."""
    text = as_text(event)
    if event.kind is EventKind.STATE:
        text = f"the state of this restart: {event.text}"
    if not text:
        return None
    priority = None
    if event.verdict and event.verdict.cleanliness is Cleanliness.DIRTY:
        priority = Priority.ERROR
    return message(
        Kind(event.kind),
        text,
        priority,
        phase=event.phase,
        step=event.step,
        state=event.text if event.kind is EventKind.STATE else "",
        seconds=f"{event.seconds:.3f}" if event.seconds else "",
        cleanliness=event.verdict.cleanliness if event.verdict else "",
    )
