# SPDX-License-Identifier: MIT
"""Who is calling, and how many calls of theirs wait at once.

Who somebody is comes from the bus, never from the message. Nobody may keep others out: each user but root has so many
calls that wait and no more, and a caller who leaves the bus is forgotten with everything that was wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kexecd.bus.connection import BUS, BUS_PATH, LIMITS_EXCEEDED, Answer, Connection
from kexecd.bus.interface import Method
from kexecd.bus.polkit import Prompt
from kexecd.bus.wire import Incoming
from kexecd.bus.wishes import Wish

UNKNOWN = -1  # who somebody is, until the bus has said so

PER_NAME = 16  # calls of one connection
PER_USER = 16  # of one user but root, over all of theirs
OF_ALL_USERS = 96  # but root; fewer than the 128 replies that the bus lets us wait for (max_replies_per_connection)
OF_ALL = 256


@dataclass(slots=True, eq=False)
class Caller:
    """A call that has not been answered."""

    message: Incoming
    method: Method
    wish: Wish
    uid: int = UNKNOWN
    prompt: Prompt | None = None
    gone: bool = False

    @property
    def name(self) -> str:
        """Unique, and never given to another (D-Bus Specification, "Unique Connection Name")."""
        return self.message.sender


class Crowded(Exception):
    """Too many calls wait; the message says whose."""

    name = LIMITS_EXCEEDED


class Callers:
    """Everybody who waits. Made anew with each connection: names are a bus's own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: dict[str, list[Caller]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def admit(self, caller: Caller, known: Callable[[Caller], None]) -> None:
        """Find out who it is; `known` is not called if they have left. Raises Crowded."""
        if len(self) >= OF_ALL:
            raise Crowded(f"{OF_ALL} calls are waiting already")
        if len(self._waiting.get(caller.name, ())) >= PER_NAME:
            raise Crowded(f"{PER_NAME} calls of this caller are waiting already")
        if caller.name not in self._waiting:
            # Before the question, so that whoever leaves after the answer is noticed.
            self._connection.ask_bus("AddMatch", "s", (_rule(caller.name),))
        self._waiting.setdefault(caller.name, []).append(caller)

        def answered(answer: Answer) -> None:
            if answer.error:
                self.leave(caller.name)
            elif not caller.gone:
                caller.uid = int(answer.values[0])
                known(caller)

        self._connection.ask_bus("GetConnectionUnixUser", "s", (caller.name,), gives="u", done=answered)

    def weigh(self, caller: Caller) -> None:
        """Now that it is known who it is. Raises Crowded."""
        users = [each for each in self._everybody() if each.uid > 0]
        if caller.uid and sum(each.uid == caller.uid for each in users) > PER_USER:
            raise Crowded(f"{PER_USER} calls of this user are waiting already")
        if caller.uid and len(users) > OF_ALL_USERS:
            raise Crowded(f"{OF_ALL_USERS} calls of all users are waiting already")

    def done(self, caller: Caller) -> None:
        """It has been answered."""
        waiting = self._waiting.get(caller.name, [])
        if caller in waiting:
            waiting.remove(caller)
        if not waiting and self._waiting.pop(caller.name, None) is not None:
            self._connection.ask_bus("RemoveMatch", "s", (_rule(caller.name),))

    def leave(self, name: str) -> None:
        """Whoever had this name is no longer on the bus: what has not begun does not begin."""
        for caller in tuple(self._waiting.get(name, ())):
            caller.gone = True
            if caller.prompt:
                caller.prompt.cancel()
            self.done(caller)

    def leave_all(self) -> None:
        """The bus is gone, and all who were on it."""
        for caller in tuple(self._everybody()):
            caller.gone = True
        self._waiting.clear()

    def _everybody(self) -> Iterable[Caller]:
        return (caller for waiting in self._waiting.values() for caller in waiting)


def _rule(name: str) -> str:
    return f"type='signal',sender='{BUS}',path='{BUS_PATH}',interface='{BUS}',member='NameOwnerChanged',arg0='{name}'"
