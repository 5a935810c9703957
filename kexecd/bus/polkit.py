# SPDX-License-Identifier: MIT
"""Asking polkit whether a caller may do something, without waiting for it.

The subject is the caller's name on the bus and never a process id, which somebody else may have by the time that polkit
looks (polkit, "org.freedesktop.PolicyKit1.Authority": kinds of subjects). Without polkit nobody but root may do
anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

from kexecd.bus.connection import NO_REPLY, Answer, Connection

POLKIT = "org.freedesktop.PolicyKit1"
PATH = "/org/freedesktop/PolicyKit1/Authority"
INTERFACE = "org.freedesktop.PolicyKit1.Authority"

ALLOW_USER_INTERACTION = 1  # CheckAuthorizationFlags

PATIENCE = 20.0
"""Seconds for an answer without a prompt; polkit may have to be started for it."""

PROMPT = 120.0
"""Seconds for a person to type a password."""


class Say(StrEnum):
    YES = "yes"
    NO = "no"
    ASK = "ask"  # a person could say yes, and nobody may be asked


@dataclass(frozen=True, slots=True)
class Word:
    say: Say
    why: str = ""  # where it is not a yes


class Prompt:
    """A question to polkit that has not been answered. `done` is called once, or never after cancel()."""

    _number = count(1)

    def __init__(
        self,
        connection: Connection,
        caller: str,
        action: str,
        *,
        interactive: bool,
        done: Callable[[Word], None],
    ) -> None:
        self._connection, self._done = connection, done
        self._id = f"kexecd-{next(self._number)}"  # of one connection's; polkit tells other callers' apart by itself
        self._serial = connection.call(
            POLKIT,
            PATH,
            INTERFACE,
            "CheckAuthorization",
            "(sa{sv})sa{ss}us",
            (
                ("system-bus-name", {"name": ("s", caller)}),
                action,
                {},  # details: nothing of what the caller has said belongs on somebody's screen
                ALLOW_USER_INTERACTION if interactive else 0,
                self._id,
            ),
            gives="(bba{ss})",
            done=self._answered,
            seconds=PROMPT if interactive else PATIENCE,
        )

    def cancel(self) -> None:
        """Take the prompt off the person's screen: whoever wanted it has left."""
        self._connection.take_back(self._serial)
        self._connection.call(POLKIT, PATH, INTERFACE, "CancelCheckAuthorization", "s", (self._id,))

    def _answered(self, answer: Answer) -> None:
        if answer.error:
            if answer.error == NO_REPLY:
                self.cancel()
            self._done(Word(Say.NO, f"polkit does not say that it may be done: {answer.text or answer.error}"))
            return
        ((allowed, challenge, _),) = answer.values
        if allowed:
            self._done(Word(Say.YES))
        elif challenge:
            self._done(Word(Say.ASK, "a person has to be asked, and the caller has not said that one may be"))
        else:
            self._done(Word(Say.NO, "polkit says no"))
