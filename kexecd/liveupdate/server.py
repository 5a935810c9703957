# SPDX-License-Identifier: MIT
"""What the holder answers to whoever asks (docs/state.md): what is put, given back, dropped, and how all of it stands.

Part of a Loop: nothing here waits. Who somebody is, and how an answer gets there, is kexecd.liveupdate.callers; what
only root may ask is kexecd.liveupdate.restart.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import asdict

from kexecd.errors import Refusal
from kexecd.liveupdate import freezing, luo, protocol
from kexecd.liveupdate.callers import Caller, Callers
from kexecd.liveupdate.filestore import FileStore
from kexecd.liveupdate.freezing import Report
from kexecd.liveupdate.place import NAME, RECORD, Summary, write_record
from kexecd.liveupdate.protocol import Do, Question
from kexecd.liveupdate.restart import Restart
from kexecd.liveupdate.store import Store
from kexecd.loop import Loop

PAGE = 64  # entries of one answer
TRYING = 30.0  # seconds for one memfd


class Server:
    """What is in `store`, for whoever asks at the socket in `run_dir`. Raises Busy if another holder listens there,
    and OSError.

    tell: is given what somebody who reads the log would want to know, a line each.
    """

    def __init__(self, loop: Loop, store: Store, disk: FileStore, run_dir: str, *, tell: Callable[[str], None]) -> None:
        self._store, self._run_dir = store, run_dir
        self._recorded: object = None
        self._restart = Restart(store, disk, record=self._record, tell=tell)
        self._callers = Callers(loop, os.path.join(run_dir, NAME), self._answer)

    def start(self) -> None:
        """Answer from here on: who has connected meanwhile has waited."""
        self._record()
        self._callers.start()

    def close(self) -> None:
        self._callers.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._run_dir, RECORD))

    def _answer(self, caller: Caller, question: Question, fd: int) -> bool:
        """At once, or when it is done; returns whether the descriptor is kept. Raises a Refusal, and OSError."""
        owner = caller.uid if question.uid is None else question.uid
        match question.do:
            case Do.PUT:
                return self._put(caller, owner, question.name, fd)
            case Do.GET:
                held = self._store.get(caller.uid, owner, question.name)
                self._record()
                caller.send(protocol.done(held=held.as_json()), held.fd)
            case Do.DROP:
                self._store.drop(caller.uid, owner, question.name)
                self._record()
                caller.send(protocol.done())
            case Do.LIST:
                held_ones, more = self._store.page(caller.uid, question.after, PAGE)
                caller.send(protocol.done(held=[held.as_json() for held in held_ones], more=more))
            case Do.STATUS:
                caller.send(protocol.done(**self._status(caller.uid)))
            case _:
                self._restart.answer(caller, question)
        return False

    def _put(self, caller: Caller, uid: int, name: str, fd: int) -> bool:
        """Whether the descriptor is kept for now. Raises a Refusal, and OSError."""
        if caller.uid not in (0, uid):
            caller.send(protocol.refused("only root may hand over for another user", errno.EPERM))
            return False
        shape = self._store.admit(uid, name, fd)
        if not luo.available() and not shape.final:
            self._keep(caller, uid, name, fd, Report())
            return True

        def tried(report: Report) -> None:
            if report.why:
                os.close(fd)
                caller.send(protocol.refused(report.why, report.errno))
                return
            try:  # once more: it may have been frozen meanwhile, or another one of this user's has come in between
                self._store.admit(uid, name, fd)
            except Refusal as no:
                os.close(fd)
                caller.send(protocol.refusal(no))
                return
            self._keep(caller, uid, name, fd, report)

        caller.in_child(lambda: freezing.try_out(fd), tried, seconds=TRYING)
        return True

    def _keep(self, caller: Caller, uid: int, name: str, fd: int, report: Report) -> None:
        held = self._store.keep(uid, name, fd)
        held.sha256, held.tried = report.sha256, report.tried
        self._record()
        caller.send(protocol.done(held=held.as_json(), note=report.note))

    def _status(self, uid: int) -> dict[str, object]:
        store = self._store
        lost = [{"uid": key[0], "name": key[1], "why": why} for key, why in sorted(store.lost_of(uid).items())]
        return {
            "state": str(store.state),
            "carrier": str(store.carrier or ""),
            "why": store.why,
            "count": len(store),
            "bytes": store.bytes,
            "rate": round(self._restart.rate),
            "live_update": luo.available(),
            "lost": lost[:PAGE],
        }

    def _record(self) -> None:
        """What is held, for whoever finds that the holder has ended without a word, and how far it has come."""
        store = self._store
        held = [[held.uid, held.name] for held in store.everything()]
        now = Summary(str(store.state), str(store.carrier or ""), store.why, len(held), len(store.lost))
        if (told := (tuple(map(tuple, held)), now)) == self._recorded:
            return
        self._recorded = told
        with contextlib.suppress(OSError):
            write_record(self._run_dir, {"held": held, **asdict(now)} if held or store.lost else None)
