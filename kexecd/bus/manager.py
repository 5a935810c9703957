# SPDX-License-Identifier: MIT
"""org.kexecd.Manager1 on the system bus (docs/dbus.md): the daemon as the bus sees it.

It has the name, tells what has changed, and looks up in the table (kexecd.bus.interface) what is called; what becomes
of a call that wants something done is kexecd.bus.calls'.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from kexecd import handoff, state
from kexecd.bus import interface, view
from kexecd.bus.calls import Calls
from kexecd.bus.connection import BUS, Answer, Connection
from kexecd.bus.deeds import Deeds
from kexecd.bus.interface import INTROSPECTABLE, MANAGER, NAME, PATH, PEER, PROPERTIES, Method
from kexecd.bus.link import Link
from kexecd.bus.logind import Logind
from kexecd.bus.wire import Incoming, Kind, Malformed
from kexecd.bus.wishes import Unfit
from kexecd.kernel.files import read_text
from kexecd.liveupdate import place
from kexecd.loop import Changes, Loop
from kexecd.model import Event, EventKind, State
from kexecd.record import RUN_DIR, loaded_record

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

PAUSE = 0.05
"""Seconds from a change in /run/kexecd until it is looked at: logind has to know before somebody restarts."""

OWNER = 1  # RequestName: we have it
QUEUED = 2  # RequestName: somebody else has it, and we get it next

INVALID_ARGS = "org.freedesktop.DBus.Error.InvalidArgs"
UNKNOWN_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"
UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"
UNKNOWN_INTERFACE = "org.freedesktop.DBus.Error.UnknownInterface"
UNKNOWN_PROPERTY = "org.freedesktop.DBus.Error.UnknownProperty"
READ_ONLY = "org.freedesktop.DBus.Error.PropertyReadOnly"

CHANGES = frozenset(("image.json", state.NAME, state.ARMED, state.FINISHED, place.RECORD))
"""The files in /run/kexecd that say something about what is seen here."""


def _log(text: str) -> None:
    print(f"kexecd: {text}", file=sys.stderr, flush=True)


class Face:
    """The daemon as the bus sees it."""

    def __init__(
        self,
        loop: Loop,
        deeds: Deeds,
        *,
        address: str = "",
        run_dir: str = RUN_DIR,
        root: str = "/",
        tell: Callable[[str], object] = _log,
    ) -> None:
        """Does nothing yet: see connect()."""
        self._loop, self._deeds, self._run_dir, self._root, self._tell = loop, deeds, run_dir, root, tell
        self._arrived = handoff.arrival().how is handoff.How.KEXEC
        self._deadline = view.Deadline()
        self._seen = self._view()
        self._connection: Connection | None = None
        self._calls = Calls(deeds, changed=self.look)
        self._heard_calls = 0
        self.named = False  # whether org.kexecd is us
        self._link = Link(loop, address, up=self._up, heard=self._heard, down=self._down)
        self._logind = Logind(
            loop,
            deeds,
            address,
            wanted=self._wanted,
            under_way=lambda: state.read(run_dir) is not None,
            tell=tell,
            ended=self.look,
        )
        self._news: Changes | None = None

    @classmethod
    def connect(
        cls,
        loop: Loop,
        deeds: Deeds,
        *,
        address: str = "",
        run_dir: str = RUN_DIR,
        root: str = "/",
        tell: Callable[[str], object] = _log,
    ) -> Face | None:
        """On the system bus, or the one at `address`; None where there is none. The rest comes by itself, in the loop.

        A bus that goes away later is come back to. tell: gets sentences for the log. run_dir has to be there.
        """
        face = cls(loop, deeds, address=address, run_dir=run_dir, root=root, tell=tell)
        try:
            face._link.open()
        except OSError:
            return None
        face._watch()
        try:
            face._logind.open()
        except OSError:
            face.close()
            return None
        return face

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer, a deed is being done, or logind has announced a shutdown."""
        return self._calls.busy or self._logind.busy

    @property
    def inhibits(self) -> bool:
        """Whether logind's inhibitor is held."""
        return self._logind.held

    def state_changed(self, now: State) -> None:
        """A restart has come so far; the daemon has it from state.json."""
        del now  # what is there by now is what is told
        self.look()

    def progress(self, event: Event) -> None:
        """Tell everybody who listens what somebody walking a plan has said."""
        self._deadline.hear(event)
        body = (str(event.kind), event.at, event.phase, event.step, event.text, event.seconds)
        if self._connection:
            signal = interface.PROGRESS
            self._connection.signal(PATH, MANAGER, signal.name, signal.signature, body)
        if event.kind in (EventKind.PLAN, EventKind.STATE, EventKind.COMMIT):
            self.look()
        if event.kind is EventKind.COMMIT and self._news:
            self._news.close()  # whoever could be told quits now

    def look(self) -> None:
        """Something may have changed: look, and tell everybody what has."""
        before, self._seen = self._seen, self._view()
        changed = self._seen.changed_since(before)
        if self._connection and changed:
            signal = interface.PROPERTIES_CHANGED
            self._connection.signal(PATH, PROPERTIES, signal.name, signal.signature, (MANAGER, changed, []))
        if self._connection and self._seen.state is not before.state:
            signal = interface.STATE_CHANGED
            self._connection.signal(PATH, MANAGER, signal.name, signal.signature, (str(self._seen.state),))
        self._logind.look()

    def retire(self, done: Callable[[bool], None]) -> None:
        """Give the name back, to exit: the next caller then starts another daemon.

        Whoever called before the name was gone is still answered: done(False) says that somebody did, and that the
        name has been taken again; done(True), that nobody will come any more.
        """
        if self._connection is None:
            done(not self.busy)
            return
        heard = self._heard_calls

        def released(answer: Answer) -> None:
            del answer
            quiet = heard == self._heard_calls and not self.busy
            if not quiet:
                self._request_name()
            done(quiet)

        self.named = False
        self._connection.ask_bus("ReleaseName", "s", (NAME,), gives="u", done=released)

    def close(self) -> None:
        self._link.close()
        self._logind.close()
        if self._news:
            self._news.close()

    def _wanted(self) -> bool:
        """Whether the next restart is to be a kexec, so that logind has to wait for it."""
        return state.is_armed(self._run_dir) or loaded_record(self._run_dir, root=self._root) is not None

    def _view(self) -> view.View:
        return view.view(self._run_dir, arrived=self._arrived, deadline=self._deadline.at, root=self._root)

    def _watch(self) -> None:
        try:
            self._news = Changes(self._loop, self._run_dir, CHANGES, self.look, pause=PAUSE)
        except OSError as error:
            self._tell(f"changes in {self._run_dir} are not told on the bus: {error.strerror}, ignoring")

    # The bus

    def _up(self, connection: Connection) -> None:
        self._connection = connection
        self._calls.begin(connection)
        self._request_name()

    def _request_name(self) -> None:
        if self._connection:
            self._connection.ask_bus("RequestName", "su", (NAME, 0), gives="u", done=self._answered_name)

    def _answered_name(self, answer: Answer) -> None:
        self.named = answer.values[:1] == (OWNER,)
        if answer.error:
            self._tell(f"the bus does not let kexecd be {NAME}: {answer.text or answer.error}")
        elif answer.values[0] == QUEUED:
            self._tell(f"somebody else is {NAME}; kexecd is next")

    def _down(self) -> None:
        self._connection = None
        self.named = False
        self._calls.end()

    def _heard(self, message: Incoming) -> None:
        if message.kind == Kind.CALL:
            self._heard_calls += 1
            self._call(message)
        elif message.kind == Kind.SIGNAL and message.sender == BUS:
            self._told_by_bus(message)

    def _told_by_bus(self, message: Incoming) -> None:
        try:
            match message.member:
                case "NameOwnerChanged":
                    name, _, owner = message.values("sss")
                    if not owner:
                        self._calls.leave(name)
                case "NameAcquired" | "NameLost":
                    (name,) = message.values("s")
                    if name == NAME:
                        self.named = message.member == "NameAcquired"
                case _:
                    pass
        except Malformed:
            return

    # What is called

    def _call(self, message: Incoming) -> None:
        if message.path not in interface.TREE and message.interface != PEER:
            self._refuse(message, UNKNOWN_OBJECT, "there is no such object; the one that there is is /org/kexecd")
            return
        found = interface.find(message.path, message.interface, message.member)
        if found is None:
            known = message.interface in ("", *(each.name for each in interface.interfaces_at(message.path)))
            self._refuse(message, UNKNOWN_METHOD if known else UNKNOWN_INTERFACE, "there is no such method here")
            return
        face, method = found
        try:
            values = message.values(method.signature)
            if method.makes:
                self._calls.take(message, method, method.makes(*values))
            else:
                self._standard(message, face.name, method, values)
        except Malformed:
            takes = ", ".join(f"{each.name} ({each.type})" for each in method.takes) or "nothing"
            self._refuse(message, INVALID_ARGS, f"{method.name} takes {takes}, and the call does not have that")
        except Unfit as unfit:
            self._refuse(message, INVALID_ARGS, str(unfit))

    def _standard(self, message: Incoming, face: str, method: Method, values: tuple[Any, ...]) -> None:
        match face, method.name:
            case (str(name), "Introspect") if name == INTROSPECTABLE:
                self._reply(message, "s", (interface.xml(message.path),))
            case (str(name), "GetMachineId") if name == PEER:
                self._reply(message, "s", ((read_text("/etc/machine-id") or "").strip(),))
            case (str(name), "Ping") if name == PEER:
                self._reply(message)
            case _:
                self._properties(message, method.name, values)

    def _properties(self, message: Incoming, member: str, values: tuple[Any, ...]) -> None:
        owner = values[0]
        if owner not in ("", *(each.name for each in interface.INTERFACES)):
            self._refuse(message, UNKNOWN_INTERFACE, "there is no such interface here")
            return
        there = self._view().properties() if owner in ("", MANAGER) else {}
        if member == "GetAll":
            self._reply(message, "a{sv}", (there,))
        elif values[1] not in there:
            self._refuse(message, UNKNOWN_PROPERTY, "there is no such property")
        elif member == "Get":
            self._reply(message, "v", (there[values[1]],))
        else:
            self._refuse(message, READ_ONLY, "every property is read-only")

    def _reply(self, message: Incoming, signature: str = "", body: tuple[Any, ...] = ()) -> None:
        if self._connection:
            self._connection.reply(message, signature, body)

    def _refuse(self, message: Incoming, name: str, why: str) -> None:
        if self._connection:
            self._connection.refuse(message, name, why)
