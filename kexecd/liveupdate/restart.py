# SPDX-License-Identifier: MIT
"""What becomes of all that is held when the machine restarts: prepared, frozen, cancelled, finished, as root asks.

Part of a Loop: nothing here waits, but for INSTANT. What takes time is done by a child, or by a thread where a copy of
the holder would delay the jump: kexecd.liveupdate.freezing. While all is handed over, written or removed nothing is
begun; only a cancel comes at any time, ends that, and removes what is left of it when nobody writes any more.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from kexecd.errors import Busy, Refusal
from kexecd.kernel import sysfs
from kexecd.liveupdate import freezing, luo, protocol
from kexecd.liveupdate.beside import LastAct
from kexecd.liveupdate.callers import Caller
from kexecd.liveupdate.carrier import PRESERVING
from kexecd.liveupdate.child import Child
from kexecd.liveupdate.filestore import FileStore
from kexecd.liveupdate.freezing import Report
from kexecd.liveupdate.index import Carrier, Index
from kexecd.liveupdate.protocol import Do, Question
from kexecd.liveupdate.store import Store
from kexecd.model import State

INSTANT = 0.3  # seconds for another opener of the device; the one wait here, as the session has to be our own
CANCELLING = 30.0  # seconds to remove what was written
FREEZING = 120.0  # seconds for all of them, onto a slow disk
ENDING = 3.0  # seconds for who writes to end, once it was killed: less than who cancels waits (ASKING of steps)
HANDING = 30.0  # seconds for all of them, to the kernel; then they are written instead

EVERYWHERE = 127
"""Memfds that a session of any kernel takes, beside the index: of 128 files with Linux 6.19, and with 7.3 of as many as
there is memory for (kernel/liveupdate/luo_file.c)."""


class _Doing(StrEnum):
    """In the words for who asks meanwhile."""

    HANDING = "everything is being handed to the kernel just now"
    WRITING = "everything is being written just now"
    REMOVING = "what was written is being removed just now"
    KILLED = "the process that was at it was killed, and has not ended yet"


@dataclass(slots=True)
class _Deed:
    """over: its end was reported, or is not waited for. given_up: nobody wants what comes of it, whatever that is."""

    doing: _Doing
    caller: Caller
    child: Child | None = None
    over: bool = False
    given_up: bool = False

    @property
    def is_under_way(self) -> bool:
        """A child that was killed may sleep in the kernel, and do there what it has begun when it wakes."""
        return not self.over or (self.child is not None and not self.child.has_ended())

    @property
    def why_not(self) -> str:
        return _Doing.KILLED if self.over or self.given_up else self.doing


class Restart:
    """How far a restart has come with what is in `store`.

    record: is called when that has changed. tell: is given what who reads the log would want to know, a line each.
    """

    def __init__(
        self, store: Store, disk: FileStore, *, record: Callable[[], None], tell: Callable[[str], None]
    ) -> None:
        self._store, self._disk, self._record, self._tell = store, disk, record, tell
        self._rate = 0.0
        self._deeds: list[_Deed] = []
        self._noting = LastAct()  # of who hands over: the index on the disk
        self._left = False  # on the disk, by what was cancelled or cut short

    @property
    def rate(self) -> float:
        """Bytes a second to the disk; 0.0 until it was measured."""
        return self._rate

    def answer(self, caller: Caller, question: Question) -> None:
        """One of root's questions (Do.is_roots), at once or when it is done. Raises a Refusal, and OSError."""
        if question.do in (Do.PREPARE, Do.FREEZE, Do.FINISH) and (deeds := self._under_way()):
            raise Busy(f"cannot {question.do} what applications have handed over", deeds[0].why_not, errno=errno.EBUSY)
        match question.do:
            case Do.PREPARE:
                self._prepare(caller, question)
            case Do.FREEZE:
                prepared = self._store.carrier if self._store.state is State.PREPARED else None
                # By file nothing has to be known of the kernel to come.
                carrier = question.carrier or prepared or Carrier.FILE
                why = question.why or (self._store.why if prepared else "") or "nothing was prepared"
                self._freeze(caller, carrier, why)
            case Do.SESSION:
                self._session(caller)
            case Do.CANCEL:
                self._cancel(caller)
            case Do.FINISH:
                self._store.finish()
                self._record()
                caller.send(protocol.done())
            case _:
                raise AssertionError(question.do)

    def _prepare(self, caller: Caller, question: Question) -> None:
        """Whether everything could go as it is now; nothing of it changes for anybody. Raises a Refusal and OSError."""
        store, carrier = self._store, question.carrier or Carrier.FILE
        if store.state is State.FROZEN:
            raise _frozen_already()
        entries = store.check()
        size = sum(entry.shape.bytes for entry in entries)
        if not entries:
            self._prepared(caller, carrier, question.why, Report())
            return
        if carrier is Carrier.MEMORY:
            self._prepare_memory(caller, question.why)
            return
        disk = self._disk

        def look() -> Report:
            disk.check_room(size)
            return Report(note=str(disk.rate()))

        def looked(report: Report) -> None:
            if report.why:
                caller.send(protocol.refused(report.why, report.errno))
                return
            self._prepared(caller, carrier, question.why, report)

        caller.in_child(look, looked, seconds=FREEZING)

    def _prepare_memory(self, caller: Caller, why: str) -> None:
        """The kernel has been asked about each when it was put: only what has grown since is tried out once more.

        Raises OSError.
        """
        everything = self._store.everything()
        grown = [(held, held.bytes) for held in everything if held.bytes > held.tried or len(everything) > EVERYWHERE]
        estimate = Report(seconds=self._store.bytes / PRESERVING)
        if not grown and _is_free():
            self._prepared(caller, Carrier.MEMORY, why, estimate)
            return
        fds = [held.fd for held, _ in grown]

        def looked(report: Report) -> None:
            if report.why:
                caller.send(protocol.refused(report.why, report.errno))
                return
            for held, size in grown:
                held.tried = size
            self._prepared(caller, Carrier.MEMORY, why, estimate)

        caller.in_child(lambda: freezing.try_together(fds), looked, seconds=FREEZING)

    def _prepared(self, caller: Caller, carrier: Carrier, why: str, report: Report) -> None:
        store = self._store
        if store.state is State.FROZEN:  # meanwhile
            caller.send(protocol.refusal(_frozen_already()))
            return
        if carrier is Carrier.FILE and report.note:
            self._rate = float(report.note)
        seconds = store.bytes / self._rate if carrier is Carrier.FILE and self._rate else report.seconds
        store.prepared(carrier, why)
        self._record()
        caller.send(protocol.done(count=len(store), bytes=store.bytes, seconds=round(seconds, 3)))

    def _freeze(self, caller: Caller, carrier: Carrier, why: str) -> None:
        """Raises a Refusal."""
        store = self._store
        if store.state is State.FROZEN:
            self._frozen(caller, Report())
            return
        index = Index(
            id=os.urandom(8).hex(),
            boot_id=sysfs.boot_id(),
            carrier=carrier,
            frozen_at=time.time(),
            entries=store.entries(),
        )
        session = -1
        if carrier is Carrier.MEMORY and index.entries:
            try:
                session = luo.create(freezing.SESSION, patience=INSTANT)
            except Refusal as no:
                self._freeze_to_files(caller, index, no.why)
                return
        # From here on nobody takes or drops anything: what is being handed over would not be what is held.
        store.frozen(carrier, why, session)
        if not index.entries:
            self._frozen(caller, Report())
        elif carrier is Carrier.FILE:
            self._freeze_to_files(caller, index, why)
        else:
            self._hand_over(caller, index, session)

    def _hand_over(self, caller: Caller, index: Index, session: int) -> None:
        store, disk, noting = self._store, self._disk, self._noting
        fds = [held.fd for held in store.everything()]
        deed = self._begin(_Doing.HANDING, caller)

        def handed(report: Report) -> None:
            deed.over = True
            if deed.given_up:
                return
            if report.why:
                deed.given_up = True
                store.thaw()
                self._freeze_to_files(caller, index, report.why)
            else:
                self._frozen(caller, report)

        def hand() -> Report:
            try:
                return freezing.to_memory(index, fds, own, disk, go_on, lambda: noting.turn(go_on))
            finally:
                os.close(own)

        def go_on() -> bool:
            return not deed.given_up

        own = -1
        try:
            own = os.dup(session)  # the session is closed when this is given up, and its number may be another file's
            caller.in_thread(hand, handed, seconds=HANDING)
        except OSError as error:
            if own >= 0:
                os.close(own)
            handed(Report.of(error))

    def _freeze_to_files(self, caller: Caller, index: Index, why: str) -> None:
        store, disk, noting = self._store, self._disk, self._noting
        index = replace(index, carrier=Carrier.FILE)
        store.frozen(Carrier.FILE, why)
        fds = [held.fd for held in store.everything()]
        deed = self._begin(_Doing.WRITING, caller)

        def write() -> Report:
            _wait_for(noting, HANDING)
            return freezing.to_files(index, fds, disk)

        def written(report: Report) -> None:
            deed.over = True
            if deed.given_up:
                self._forget_after_all(caller)
            elif report.why:
                self._left = True  # it may have been cut short when all was there
                store.thaw()
                self._record()
                self._tell(f"what applications have handed over is not carried: {report.why}")
                caller.send(protocol.refused(report.why, report.errno))
            else:
                self._frozen(caller, report)

        try:
            deed.child = caller.in_child(write, written, seconds=FREEZING)
        except OSError as error:  # `handed` calls this from the loop, and what leaves that ends the holder
            written(Report.of(error))

    def _frozen(self, caller: Caller, report: Report) -> None:
        store = self._store
        self._record()
        self._tell(f"{len(store)} held, {store.bytes} bytes, go by {store.carrier}: {store.why}")
        told = {"carrier": str(store.carrier), "why": store.why, "note": report.note, "seconds": report.seconds}
        caller.send(protocol.done(count=len(store), bytes=store.bytes, **told))

    def _session(self, caller: Caller) -> None:
        """For whoever jumps: as long as one of us lives, it is kept. Raises a Refusal."""
        if self._store.session < 0:
            raise Busy("cannot give the session", "memory carries nothing now", errno=errno.ENOENT)
        caller.send(protocol.done(), self._store.session)

    def _cancel(self, caller: Caller) -> None:
        """Everybody has his back in any case; what was written and cannot be removed, the next cancel tries to. Raises
        OSError.
        """
        self._left = self._left or self._store.state is State.FROZEN
        self._give_up()
        self._store.thaw()
        self._record()
        if not self._left:
            caller.send(protocol.done())
            return

        def told(report: Report) -> None:
            caller.send(protocol.refused(report.why, report.errno) if report.why else protocol.done())

        self._forget(caller, told)

    def _give_up(self) -> None:
        """Whoever has asked for it is told now, whenever it ends."""
        for deed in self._deeds:
            if deed.over or deed.given_up or deed.doing is _Doing.REMOVING:
                continue
            deed.given_up = True
            if deed.child:
                deed.child.end()
            else:  # a thread, which cannot be ended and does nothing more that counts
                deed.over = True
            deed.caller.send(protocol.refused("it was cancelled meanwhile", errno.ECANCELED))

    def _forget(self, caller: Caller, told: Callable[[Report], None]) -> None:
        """When nobody writes any more. Raises OSError."""
        disk, noting = self._disk, self._noting
        writing = [deed.child for deed in self._under_way() if deed.child and deed.doing is _Doing.WRITING]
        deed = self._begin(_Doing.REMOVING, caller)

        def forget() -> Report:
            if not all(child.has_ended(ENDING) for child in writing):
                why = f"the process that writes has been killed and has not ended within {ENDING:g} s"
                return Report(f"{why}: what it leaves is removed when it ends, or by the next cancel", errno.ETIMEDOUT)
            _wait_for(noting, ENDING)
            return freezing.forget(disk)

        def forgotten(report: Report) -> None:
            deed.over = True
            self._left = bool(report.why)
            told(report)

        try:
            deed.child = caller.in_child(forget, forgotten, seconds=CANCELLING)
        except OSError:
            deed.over = True
            raise

    def _forget_after_all(self, caller: Caller) -> None:
        """Who was writing has ended, or is not waited for any longer: if nobody has removed it, and nobody is at it."""
        if not self._left or any(deed.doing is _Doing.REMOVING for deed in self._under_way()):
            return

        def told(report: Report) -> None:
            if report.why:
                self._tell(f"{self._disk.directory} keeps what was cancelled: {report.why}")

        try:
            self._forget(caller, told)
        except OSError as error:  # the loop calls this, and what leaves that ends the holder
            told(Report.of(error))

    def _begin(self, doing: _Doing, caller: Caller) -> _Deed:
        deed = _Deed(doing, caller)
        self._deeds = [*self._under_way(), deed]
        return deed

    def _under_way(self) -> list[_Deed]:
        self._deeds = [deed for deed in self._deeds if deed.is_under_way]
        return self._deeds


def _wait_for(noting: LastAct, seconds: float) -> None:
    """In a child. Raises OSError: what is put in its place now may come after all that we do."""
    if not noting.is_over(seconds):
        raise OSError(errno.ETIMEDOUT, f"the disk has not taken the list of what memory carries within {seconds:g} s")


def _frozen_already() -> Busy:
    return Busy("cannot prepare", "everything is frozen already", errno=errno.EBUSY)


def _is_free() -> bool:
    """Whether live update would begin now; if somebody has the device, a child waits for him, and we do not."""
    try:
        freezing.try_together((), patience=0)
    except Refusal:
        return False
    return True
