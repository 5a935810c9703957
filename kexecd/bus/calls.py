# SPDX-License-Identifier: MIT
"""What a call goes through until it is a deed, and back.

a wish, which is one of kexecctl's command lines -> who calls, from the bus -> root, or polkit says yes -> the deed, in
a child of the daemon -> its answer

Each step either goes on or ends in an error for the caller, and none of them waits: a prompt on somebody's screen, a
deed that takes minutes and a caller who never comes back delay nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kexecd.bus import wishes
from kexecd.bus.callers import Caller, Callers, Crowded
from kexecd.bus.connection import LIMITS_EXCEEDED, Connection
from kexecd.bus.deeds import Deeds, Outcome, error_name, outcome
from kexecd.bus.interface import Method
from kexecd.bus.polkit import Prompt, Say, Word
from kexecd.bus.wire import INTERACTIVE, Incoming
from kexecd.bus.wishes import Wish
from kexecd.errors import ExitCode

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

READERS = 2
"""Deeds at once that only look; the others wait, and all who want the same to be looked at wait for one look."""

CHANGERS = 4
"""Deeds at once that change something. They would only tell each other that they are busy."""

LONGEST_ANSWER = 4 << 20
"""Characters of a document; one copy waits for each caller until the bus has taken it."""

ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"
ASK_A_PERSON = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"


class Calls:
    """changed: called after each deed that may have changed something."""

    def __init__(self, deeds: Deeds, *, changed: Callable[[], object]) -> None:
        self._deeds, self._changed = deeds, changed
        self._connection: Connection | None = None
        self._callers: Callers | None = None
        self._queue: dict[tuple[str, ...], list[Caller]] = {}  # by what they want to look at
        self._reading = self._changing = 0

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer, or a deed is being done."""
        return bool(self._callers) or bool(self._reading or self._changing)

    def begin(self, connection: Connection) -> None:
        self._connection, self._callers = connection, Callers(connection)

    def end(self) -> None:
        """Nobody who was on that bus can be answered; what has begun goes on, what has not does not begin."""
        if self._callers:
            self._callers.leave_all()
        self._connection = self._callers = None
        self._queue.clear()

    def leave(self, name: str) -> None:
        """Whoever had this name is no longer on the bus."""
        if self._callers:
            self._callers.leave(name)

    def take(self, message: Incoming, method: Method, wish: Wish) -> None:
        """Somebody wants this."""
        assert self._callers is not None and self._connection is not None  # somebody has called, so there is a bus
        caller = Caller(message, method, wish)
        try:
            self._callers.admit(caller, self._known)
        except Crowded as crowded:
            self._connection.refuse(message, crowded.name, str(crowded))

    # Who may

    def _known(self, caller: Caller) -> None:
        assert self._callers is not None and self._connection is not None
        try:
            self._callers.weigh(caller)
        except Crowded as crowded:
            self._deny(caller, crowded.name, str(crowded))
            return
        if caller.uid == 0:
            self._do(caller)
            return
        caller.prompt = Prompt(
            self._connection,
            caller.name,
            str(caller.wish.action),
            interactive=caller.wish.interactive or bool(caller.message.flags & INTERACTIVE),
            done=partial(self._authorized, caller),
        )

    def _authorized(self, caller: Caller, word: Word) -> None:
        caller.prompt = None
        if caller.gone:
            return
        match word.say:
            case Say.YES:
                self._do(caller)
            case Say.ASK:
                self._deny(caller, ASK_A_PERSON, f"{caller.wish.action}: {word.why}")
            case Say.NO:
                self._deny(caller, ACCESS_DENIED, f"{caller.wish.action}: {word.why}")

    # The deed

    def _do(self, caller: Caller) -> None:
        if caller.method.reads:
            self._queue.setdefault(caller.wish.argv, []).append(caller)
            self._read_next()
        elif self._changing >= CHANGERS and caller.wish.action is not wishes.Action.CANCEL:
            self._deny(caller, error_name(ExitCode.BUSY), f"{CHANGERS} other deeds are under way; nothing was changed")
        elif caller.wish.entry:
            self._change(wishes.ENTRIES, partial(self._load_known, caller))
        else:
            self._change(caller.wish, partial(self._finish, caller))

    def _load_known(self, caller: Caller, entries: Outcome) -> None:
        """An id is a word of a command line only if it is one that this machine's own disks have."""
        known = {str(each.get("id")) for each in entries.field("entries") or () if isinstance(each, dict)}
        if caller.gone:
            return
        if entries.error:
            self._finish(caller, entries)
        elif caller.wish.entry not in known:
            why = f"there is no boot entry {caller.wish.entry!r}; Entries() tells which there are; nothing was changed"
            self._deny(caller, error_name(ExitCode.NO_ENTRY), why)
        else:
            self._change(caller.wish, partial(self._finish, caller))

    def _change(self, wish: Wish, then: Callable[[Outcome], None]) -> None:
        def done(code: int, out: bytes, err: bytes) -> None:
            self._changing -= 1
            then(outcome(code, out, err, reads=wish is wishes.ENTRIES))
            self._changed()

        self._changing += 1
        self._run(wish, done)

    def _read_next(self) -> None:
        while self._reading < READERS and self._queue:
            if callers := [each for each in self._queue.pop(next(iter(self._queue))) if not each.gone]:
                self._read(callers)

    def _read(self, callers: list[Caller]) -> None:
        def done(code: int, out: bytes, err: bytes) -> None:
            self._reading -= 1
            told = outcome(code, out, err, reads=True)
            for caller in callers:
                self._finish(caller, told)
            self._read_next()

        self._reading += 1
        self._run(callers[0].wish, done)

    def _run(self, wish: Wish, done: Callable[[int, bytes, bytes], None]) -> None:
        try:
            self._deeds.run(wish.argv, done, wish.seconds)
        except OSError as error:
            done(ExitCode.FAILURE, b"", f"kexecctl cannot be started: {error.strerror}".encode())

    def _finish(self, caller: Caller, told: Outcome) -> None:
        if caller.gone:
            return
        if told.error:
            self._deny(caller, told.error, told.why)
            return
        if len(told.text) > LONGEST_ANSWER:
            self._deny(caller, LIMITS_EXCEEDED, "the answer is too long for the bus; kexecctl prints it")
            return
        signature = "".join(each.type for each in caller.method.gives)
        match signature:
            case "":
                body: tuple[Any, ...] = ()
            case "b":
                body = (bool(told.field(caller.method.field)),)
            case _:
                body = (str(told.field(caller.method.field)) if caller.method.field else told.text,)
        if self._connection:
            self._connection.reply(caller.message, signature, body)
        self._forget(caller)

    def _deny(self, caller: Caller, name: str, why: str) -> None:
        if self._connection:
            self._connection.refuse(caller.message, name, why)
        self._forget(caller)

    def _forget(self, caller: Caller) -> None:
        if self._callers:
            self._callers.done(caller)
