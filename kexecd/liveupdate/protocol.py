# SPDX-License-Identifier: MIT
"""What is said on the holder's socket: a packet of JSON for each question and each answer, docs/state.md.

Pure. Whoever asks may be anybody, so a question is either understood in full or refused.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from enum import StrEnum

from kexecd.client import LIMIT
from kexecd.errors import Refusal
from kexecd.liveupdate.index import NAME, Carrier

__all__ = ["LIMIT", "TEXT", "Do", "Malformed", "Question", "done", "parse", "refusal", "refused"]

MOST_UID = 0xFFFFFFFE
TEXT = 400  # characters of a reason


class Do(StrEnum):
    PUT = "put"
    GET = "get"
    DROP = "drop"
    LIST = "list"
    STATUS = "status"
    PREPARE = "prepare"  # from here on root's alone
    FREEZE = "freeze"
    SESSION = "session"
    CANCEL = "cancel"
    FINISH = "finish"

    @property
    def is_roots(self) -> bool:
        return self in (Do.PREPARE, Do.FREEZE, Do.SESSION, Do.CANCEL, Do.FINISH)

    @property
    def has_name(self) -> bool:
        return self in (Do.PUT, Do.GET, Do.DROP)


class Malformed(ValueError):
    """This is no question; the text says what is wrong, without a full stop."""


@dataclass(frozen=True, slots=True)
class Question:
    """uid: whose, if it is not the caller's own. after: where a list goes on. carrier, why: of prepare and freeze."""

    do: Do
    name: str = ""
    uid: int | None = None
    after: tuple[int, str] | None = None
    carrier: Carrier | None = None
    why: str = ""


def parse(message: bytes, fds: int) -> Question:
    """What a packet that came with so many descriptors asks. Raises Malformed."""
    try:
        told = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Malformed("the question is not JSON") from error
    if not isinstance(told, dict):
        raise Malformed("the question is not an object")
    word = told.pop("do", None)
    if not isinstance(word, str) or word not in tuple(Do):
        raise Malformed(f"`do` has to be one of {', '.join(Do)}")
    do = Do(word)
    if fds != (do is Do.PUT):
        raise Malformed("put comes with one descriptor" if do is Do.PUT else f"{do} comes without a descriptor")
    question = Question(
        do,
        name=_name(told.pop("name", None)) if do.has_name else "",
        uid=_uid(told.pop("uid")) if "uid" in told and do.has_name else None,
        after=_after(told.pop("after")) if "after" in told and do is Do.LIST else None,
        carrier=_carrier(told.pop("carrier", None)) if _says_carrier(do, told) else None,
        why=_text(told.pop("why", "")),
    )
    if told:
        raise Malformed(f"{do} has no {_text(min(told))[:40]!r}")
    return question


def done(**fields: object) -> bytes:
    return json.dumps({"done": True, **fields}).encode()


def refused(why: str, number: int = errno.EINVAL) -> bytes:
    return json.dumps({"done": False, "why": why[:TEXT], "errno": number}).encode()


def refusal(no: Refusal) -> bytes:
    return refused(no.why, no.errno or errno.EINVAL)


def _says_carrier(do: Do, told: dict[str, object]) -> bool:
    """A freeze without one takes what was prepared."""
    return do is Do.PREPARE or (do is Do.FREEZE and "carrier" in told)


def _name(value: object) -> str:
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    raise Malformed("a name has 1 to 64 letters, digits, `_`, `.` and `-`, and begins with a letter or digit")


def _uid(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_UID:
        return value
    raise Malformed("`uid` has to be the number of a user")


def _after(value: object) -> tuple[int, str]:
    if isinstance(value, list) and len(value) == 2:
        return _uid(value[0]), _name(value[1])
    raise Malformed("`after` has to be the user and the name of the last one that is known")


def _carrier(value: object) -> Carrier:
    if isinstance(value, str) and value in tuple(Carrier):
        return Carrier(value)
    raise Malformed(f"`carrier` has to be one of {', '.join(Carrier)}")


def _text(value: object) -> str:
    if isinstance(value, str) and len(value) <= TEXT:
        return value
    raise Malformed(f"`why` has to be a text of at most {TEXT} characters")
