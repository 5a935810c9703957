# SPDX-License-Identifier: MIT
"""logind's delay inhibitor: time to put the image into memory before anything is stopped.

https://systemd.io/INHIBITOR_LOCKS: while it is held, logind says PrepareForShutdown(true) and waits, at most
InhibitDelayMaxSec (5 s), until it is given back. What kind of shutdown it is, is only told by
PrepareForShutdownWithMetadata (systemd 255), which comes first; before that only of one that was scheduled, by the
property ScheduledShutdown. Where it is not known nothing is done here: the service that PID 1 stops a moment later can
tell (kexecd-preload), and does the same. That is also why whatever is done here may be done a second time.

A connection of its own, since a descriptor has to come with the answer: the one that everybody talks to takes none. A
signal counts only if logind is who sent it; anybody may send one to anybody.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from kexecd.bus.connection import BUS, BUS_PATH, Answer, Connection
from kexecd.bus.deeds import Deeds, outcome
from kexecd.bus.link import Link
from kexecd.bus.wire import Incoming, Kind, Malformed
from kexecd.init.wishes import Going
from kexecd.loop import Loop

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from io import FileIO

LOGIND = "org.freedesktop.login1"
PATH = "/org/freedesktop/login1"
MANAGER = "org.freedesktop.login1.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"

PREPARE = "PrepareForShutdown"
PREPARE_WITH_METADATA = "PrepareForShutdownWithMetadata"

RULES = (
    f"type='signal',sender='{LOGIND}',path='{PATH}',interface='{MANAGER}',member='{PREPARE}'",
    f"type='signal',sender='{LOGIND}',path='{PATH}',interface='{MANAGER}',member='{PREPARE_WITH_METADATA}'",
    f"type='signal',sender='{BUS}',path='{BUS_PATH}',interface='{BUS}',member='NameOwnerChanged',arg0='{LOGIND}'",
)

SERVICE = 60.0  # seconds that `kexecctl service` gives itself
CANCEL = 120.0  # seconds; a hook that is undone may need some


GOING = {
    "reboot": Going.REBOOT,
    "kexec": Going.REBOOT,
    "power-off": Going.DOWN,
    "poweroff": Going.DOWN,
    "halt": Going.DOWN,
    "soft-reboot": Going.STAY,  # the kernel stays
}
"""The types that logind tells. With "dry-" before it, nothing happens at all."""


class Round(NamedTuple):
    """One shutdown that logind has announced. ours: what has been prepared for it is taken back if it is called off."""

    going: Going | None = None
    ours: bool = False


class Logind:
    """wanted: whether a restart of this machine is to be a kexec. under_way: whether one has been prepared already.

    tell: gets sentences for the log. ended: called after each deed.
    """

    def __init__(
        self,
        loop: Loop,
        deeds: Deeds,
        address: str,
        *,
        wanted: Callable[[], bool],
        under_way: Callable[[], bool],
        tell: Callable[[str], object],
        ended: Callable[[], object],
    ) -> None:
        self._deeds, self._wanted, self._under_way, self._tell, self._ended = deeds, wanted, under_way, tell, ended
        self._connection: Connection | None = None
        self._logind = ""  # who it is on the bus; nobody: empty
        self._lock: FileIO | None = None
        self._asking = False
        self._round: Round | None = None
        self._running = 0
        self._link = Link(loop, address, up=self._up, heard=self._heard, down=self._down, fds=True)

    def open(self) -> None:
        """Raises OSError where there is no bus."""
        self._link.open()

    def close(self) -> None:
        self._link.close()

    @property
    def held(self) -> bool:
        return self._lock is not None

    def look(self) -> None:
        """What is wanted may have changed: have the inhibitor, or have it not."""
        if self._round:
            return  # logind takes no lock for a shutdown that it has begun
        if not self._wanted():
            self._let_go()
        elif self._connection and self._logind and not self._lock and not self._asking:
            self._asking = True
            body = ("shutdown", "kexecd", "The next kernel is put into memory", "delay")
            self._ask("Inhibit", "ssss", body, gives="h", done=self._locked)

    def _up(self, connection: Connection) -> None:
        self._connection = connection
        for rule in RULES:
            connection.ask_bus("AddMatch", "s", (rule,))
        connection.ask_bus("GetNameOwner", "s", (LOGIND,), gives="s", done=self._found)

    def _down(self) -> None:
        self._connection, self._logind, self._asking = None, "", False
        self._let_go()

    def _found(self, answer: Answer) -> None:
        """Not being there is no error: it may be started later, and there is elogind, and nothing of the kind."""
        if not answer.error:
            self._settle(str(answer.values[0]))

    def _settle(self, owner: str) -> None:
        """Another logind knows nothing of what the one before it has announced, nor of our lock."""
        if owner != self._logind:
            self._logind, self._round, self._asking = owner, None, False
            self._let_go()
            self.look()

    def _locked(self, answer: Answer) -> None:
        self._asking = False
        if answer.error:
            self._tell(f"logind does not let kexecd delay a shutdown: {answer.text or answer.error}, ignoring")
            return
        (fd,) = answer.values
        self._lock = os.fdopen(fd, "rb", buffering=0)
        if self._round or not self._wanted():
            self._let_go()

    def _let_go(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def _heard(self, message: Incoming) -> None:
        if message.kind != Kind.SIGNAL:
            return
        try:
            match message.sender, message.member:
                case (str(sender), "NameOwnerChanged") if sender == BUS:
                    name, _, owner = message.values("sss")
                    if name == LOGIND:
                        self._settle(str(owner))
                case (str(sender), str(member)) if sender and sender == self._logind:
                    self._announced(member, message)
        except Malformed:
            return

    def _announced(self, member: str, message: Incoming) -> None:
        if member == PREPARE_WITH_METADATA:
            begins, metadata = message.values("ba{sv}")
            self._prepare(bool(begins), str(metadata.get("type", ("s", ""))[1]))
        elif member == PREPARE:
            (begins,) = message.values("b")
            if not begins:
                self._prepare(False, "")
            elif not self._round:
                self._round = Round()
                self._ask(
                    "Get", "ss", (MANAGER, "ScheduledShutdown"), gives="v", done=self._scheduled, interface=PROPERTIES
                )

    def _scheduled(self, answer: Answer) -> None:
        """Without metadata: what was scheduled is what comes, and of anything else nobody knows."""
        if self._round != Round():
            return  # called off, or told meanwhile
        kind = ""
        if not answer.error:
            signature, value = answer.values[0]
            kind = str(value[0]) if signature == "(st)" else ""
        self._prepare(True, kind)

    def _prepare(self, begins: bool, kind: str) -> None:
        if not begins:
            self._called_off()
            return
        if self._round and self._round.going:
            return  # told twice
        going = GOING.get(kind)
        self._round = Round(going, ours=going is Going.REBOOT and self._wanted() and not self._under_way())
        if going in (Going.REBOOT, Going.DOWN) and self._wanted():
            self._run(("service", "stop", "--going", str(going), "--json"), SERVICE, self._readied)
        else:
            self._let_go()

    def _readied(self) -> None:
        """The shutdown may go on; or, if it has been called off meanwhile, what was prepared for it is taken back."""
        self._let_go()
        if self._round is None:
            self._run(("cancel", "--json"), CANCEL, self.look)

    def _called_off(self) -> None:
        """The machine stays: what was prepared for this is taken back, and the next one is waited for."""
        announced, self._round = self._round, None
        if self._running:
            return
        self._let_go()
        if announced and announced.ours:
            self._run(("cancel", "--json"), CANCEL, self.look)
        else:
            self.look()

    def _run(self, argv: tuple[str, ...], seconds: float, after: Callable[[], None]) -> None:
        def done(code: int, out: bytes, err: bytes) -> None:
            self._running -= 1
            told = outcome(code, out, err)
            if told.error:
                self._tell(f"kexecctl {' '.join(argv)}: {told.why}")
            after()
            self._ended()

        self._running += 1
        try:
            self._deeds.run(argv, done, seconds)
        except OSError as error:
            done(1, b"", f"cannot be started: {error.strerror}".encode())

    @property
    def busy(self) -> bool:
        """A deed is being done, or a shutdown has been announced."""
        return bool(self._running or self._round)

    def _ask(
        self,
        member: str,
        signature: str,
        body: tuple[str, ...],
        *,
        gives: str,
        done: Callable[[Answer], None],
        interface: str = MANAGER,
    ) -> None:
        if self._connection:
            self._connection.call(LOGIND, PATH, interface, member, signature, body, gives=gives, done=done)
