# SPDX-License-Identifier: MIT
"""The holder's socket, /run/kexecd/state, for everybody: questions in, descriptors in and out (docs/state.md).

Part of a Loop: nothing here waits. A question that takes time is done in a child, and who asked it is heard again when
it is answered. Who somebody is, the kernel says (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from threading import Event

from kexecd.errors import Busy, Refusal
from kexecd.kernel import sysfs
from kexecd.liveupdate import beside, freezing, luo, memory, protocol
from kexecd.liveupdate.carrier import PRESERVING
from kexecd.liveupdate.filestore import FileStore
from kexecd.liveupdate.freezing import Report
from kexecd.liveupdate.index import Carrier, Index
from kexecd.liveupdate.place import NAME, RECORD, Summary, is_there, write_record
from kexecd.liveupdate.protocol import Do, Malformed, Question
from kexecd.liveupdate.store import Store
from kexecd.loop import Ended, Loop, Timer
from kexecd.model import State

PAGE = 64  # entries of one answer
MOST = 256  # connections
EACH = 16  # connections of one user
IDLE = 60.0  # seconds that a connection may be silent
INSTANT = 0.3  # seconds for another opener of the device; the one wait here, as the session has to be our own
TRYING = 30.0  # seconds for one memfd
FREEZING = 120.0  # seconds for all of them, onto a slow disk
HANDING = 30.0  # seconds for all of them, to the kernel; then they are written instead

EVERYWHERE = 127
"""Memfds that a session of any kernel takes, beside the index: of 128 files with Linux 6.19, and with 7.3 of as many as
there is memory for (kernel/liveupdate/luo_file.c)."""


@dataclass(slots=True)
class _Caller:
    socket: socket.socket
    uid: int
    pid: int
    idle: Timer
    fd: int  # of the socket, also when that is closed
    busy: bool = False


class Server:
    """The listening end, in `run_dir`. Raises Busy if another holder listens there, and OSError.

    tell: is given what somebody who reads the log would want to know, a line each.
    """

    def __init__(
        self, loop: Loop, store: Store, disk: FileStore, run_dir: str, *, tell: Callable[[str], None]
    ) -> None:
        self._loop, self._store, self._disk, self._run_dir, self._tell = loop, store, disk, run_dir, tell
        self._path = os.path.join(run_dir, NAME)
        self._callers: dict[int, _Caller] = {}
        self._rate = 0.0  # bytes a second to the disk, as far as it was measured
        self._recorded: object = None
        self._given_up = Event()  # of what is being handed to the kernel
        if is_there(self._path):
            raise Busy("cannot hold what applications hand over", f"another holder listens at {self._path} already")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # of one that was killed
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = os.umask(0o111)
        try:
            self._listener.bind(self._path)
        finally:
            os.umask(before)
        self._listener.listen(128)
        self._listener.setblocking(False)

    def start(self) -> None:
        """Answer from here on: who has connected meanwhile has waited."""
        self._record()
        self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        for caller in tuple(self._callers.values()):
            self._leave(caller)
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        for path in (self._path, os.path.join(self._run_dir, RECORD)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    # One connection

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            pid, uid, _ = struct.unpack("iIi", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if len(self._callers) >= MOST or sum(other.uid == uid for other in self._callers.values()) >= EACH:
                with contextlib.suppress(OSError):
                    connection.send(protocol.refused("there are too many connections", errno.EAGAIN))
                connection.close()
                return
            fd = connection.fileno()
            caller = _Caller(connection, uid, pid, self._loop.after(IDLE, lambda: self._leave(caller)), fd)
            self._callers[fd] = caller
            self._loop.watch(fd, lambda: self._hear(caller))

    def _leave(self, caller: _Caller) -> None:
        caller.idle.cancel()
        if self._callers.get(caller.fd) is caller:
            del self._callers[caller.fd]
            if not caller.busy:
                self._loop.forget(caller.fd)
            caller.socket.close()

    def _hear(self, caller: _Caller) -> None:
        try:
            message, fds, flags, _ = socket.recv_fds(caller.socket, protocol.LIMIT, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            self._leave(caller)
            return
        if not message and not fds:
            self._leave(caller)
            return
        caller.idle.cancel()
        caller.idle = self._loop.after(IDLE, lambda: self._leave(caller))
        kept = False
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Malformed("the question is too long, came with too many descriptors, or there is no room for one")
            question = protocol.parse(message, len(fds))
            if question.do.is_roots and caller.uid:
                self._send(caller, protocol.refused(f"only root may {question.do}", errno.EPERM))
            elif question.do is Do.PUT:
                kept = self._put(caller, question, fds[0])
            else:
                self._answer(caller, question)
        except Malformed as wrong:
            self._send(caller, protocol.refused(str(wrong)))
        except Refusal as no:
            self._send(caller, protocol.refusal(no))
        except OSError as error:
            self._send(caller, protocol.refused((error.strerror or str(error)).lower(), error.errno or errno.EIO))
        finally:
            for fd in fds if not kept else ():
                memory.discard(fd)

    def _answer(self, caller: _Caller, question: Question) -> None:
        """What is answered at once, or begun. Raises a Refusal."""
        owner = caller.uid if question.uid is None else question.uid
        match question.do:
            case Do.GET:
                held = self._store.get(caller.uid, owner, question.name)
                self._record()
                self._send(caller, protocol.done(held=held.as_json()), held.fd)
            case Do.DROP:
                self._store.drop(caller.uid, owner, question.name)
                self._record()
                self._send(caller, protocol.done())
            case Do.LIST:
                held_ones, more = self._store.page(caller.uid, question.after, PAGE)
                self._send(caller, protocol.done(held=[held.as_json() for held in held_ones], more=more))
            case Do.STATUS:
                self._send(caller, protocol.done(**self._status(caller.uid)))
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
                self._send(caller, protocol.done())
            case _:
                raise AssertionError(question.do)

    def _status(self, uid: int) -> dict[str, object]:
        store = self._store
        lost = [{"uid": key[0], "name": key[1], "why": why} for key, why in sorted(store.lost_of(uid).items())]
        return {
            "state": str(store.state),
            "carrier": str(store.carrier or ""),
            "why": store.why,
            "count": len(store),
            "bytes": store.bytes,
            "rate": round(self._rate),
            "live_update": luo.available(),
            "lost": lost[:PAGE],
        }

    # What takes time

    def _put(self, caller: _Caller, question: Question, fd: int) -> bool:
        """Whether the descriptor is kept for now. Raises a Refusal."""
        uid = caller.uid if question.uid is None else question.uid
        if caller.uid not in (0, uid):
            self._send(caller, protocol.refused("only root may hand over for another user", errno.EPERM))
            return False
        shape = self._store.admit(uid, question.name, fd)
        if not luo.available() and not shape.final:
            self._keep(caller, uid, question.name, fd, Report())
            return True

        def tried(report: Report) -> None:
            if report.why:
                os.close(fd)
                self._send(caller, protocol.refused(report.why, report.errno))
                return
            try:  # once more: it may have been frozen meanwhile, or another one of this user's has come in between
                self._store.admit(uid, question.name, fd)
            except Refusal as no:
                os.close(fd)
                self._send(caller, protocol.refusal(no))
                return
            self._keep(caller, uid, question.name, fd, report)

        self._in_child(caller, lambda: freezing.try_out(fd), tried, TRYING)
        return True

    def _keep(self, caller: _Caller, uid: int, name: str, fd: int, report: Report) -> None:
        held = self._store.keep(uid, name, fd)
        held.sha256, held.tried = report.sha256, report.tried
        self._record()
        self._send(caller, protocol.done(held=held.as_json(), note=report.note))

    def _prepare(self, caller: _Caller, question: Question) -> None:
        """Whether everything could go as it is now; nothing of it changes for anybody. Raises a Refusal."""
        store, carrier = self._store, question.carrier or Carrier.FILE
        if store.state is State.FROZEN:
            raise Busy("cannot prepare", "everything is frozen already", errno=errno.EBUSY)
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
                self._send(caller, protocol.refused(report.why, report.errno))
                return
            self._prepared(caller, carrier, question.why, report)

        self._in_child(caller, look, looked, FREEZING)

    def _prepare_memory(self, caller: _Caller, why: str) -> None:
        """The kernel has been asked about each when it was put: only what has grown since is tried out once more."""
        everything = self._store.everything()
        grown = [(held, held.bytes) for held in everything if held.bytes > held.tried or len(everything) > EVERYWHERE]
        estimate = Report(seconds=self._store.bytes / PRESERVING)
        if not grown and _is_free():
            self._prepared(caller, Carrier.MEMORY, why, estimate)
            return
        fds = [held.fd for held, _ in grown]

        def looked(report: Report) -> None:
            if report.why:
                self._send(caller, protocol.refused(report.why, report.errno))
                return
            for held, size in grown:
                held.tried = size
            self._prepared(caller, Carrier.MEMORY, why, estimate)

        self._in_child(caller, lambda: freezing.try_together(fds), looked, FREEZING)

    def _prepared(self, caller: _Caller, carrier: Carrier, why: str, report: Report) -> None:
        store = self._store
        if carrier is Carrier.FILE and report.note:
            self._rate = float(report.note)
        seconds = store.bytes / self._rate if carrier is Carrier.FILE and self._rate else report.seconds
        store.prepared(carrier, why)
        self._record()
        self._send(caller, protocol.done(count=len(store), bytes=store.bytes, seconds=round(seconds, 3)))

    def _freeze(self, caller: _Caller, carrier: Carrier, why: str) -> None:
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

    def _hand_over(self, caller: _Caller, index: Index, session: int) -> None:
        store, disk = self._store, self._disk
        fds, given_up = [held.fd for held in store.everything()], Event()
        self._given_up = given_up

        def handed(report: Report) -> None:
            if given_up.is_set():
                self._send(caller, protocol.refused("it was cancelled meanwhile", errno.ECANCELED))
            elif report.why:
                given_up.set()
                store.thaw()
                self._freeze_to_files(caller, index, report.why)
            else:
                self._frozen(caller, report)

        def hand() -> Report:
            try:
                return freezing.to_memory(index, fds, own, disk, lambda: not given_up.is_set())
            finally:
                os.close(own)

        own = -1
        try:
            own = os.dup(session)  # the session is closed when this is given up, and its number may be another file's
            self._in_thread(caller, hand, handed, HANDING)
        except OSError as error:
            if own >= 0:
                os.close(own)
            handed(Report((error.strerror or str(error)).lower(), error.errno or errno.EAGAIN))

    def _freeze_to_files(self, caller: _Caller, index: Index, why: str) -> None:
        store, disk = self._store, self._disk
        index = replace(index, carrier=Carrier.FILE)
        store.frozen(Carrier.FILE, why)
        fds = [held.fd for held in store.everything()]

        def written(report: Report) -> None:
            if report.why:
                store.thaw()
                self._record()
                self._tell(f"what applications have handed over is not carried: {report.why}")
                self._send(caller, protocol.refused(report.why, report.errno))
            else:
                self._frozen(caller, report)

        self._in_child(caller, lambda: freezing.to_files(index, fds, disk), written, FREEZING)

    def _frozen(self, caller: _Caller, report: Report) -> None:
        store = self._store
        self._record()
        self._tell(f"{len(store)} held, {store.bytes} bytes, go by {store.carrier}: {store.why}")
        told = {"carrier": str(store.carrier), "why": store.why, "note": report.note, "seconds": report.seconds}
        self._send(caller, protocol.done(count=len(store), bytes=store.bytes, **told))

    def _session(self, caller: _Caller) -> None:
        """For whoever jumps: as long as one of us lives, it is kept. Raises a Refusal."""
        if self._store.session < 0:
            raise Busy("cannot give the session", "memory carries nothing now", errno=errno.ENOENT)
        self._send(caller, protocol.done(), self._store.session)

    def _cancel(self, caller: _Caller) -> None:
        written = self._store.state is State.FROZEN
        self._given_up.set()
        self._store.thaw()
        self._record()
        if not written:
            self._send(caller, protocol.done())
            return
        disk = self._disk

        def forgotten(report: Report) -> None:
            answer = protocol.refused(report.why, report.errno) if report.why else protocol.done()
            self._send(caller, answer)

        self._in_child(caller, lambda: freezing.forget(disk), forgotten, TRYING)

    def _in_child(
        self, caller: _Caller, work: Callable[[], Report], done: Callable[[Report], None], seconds: float
    ) -> None:
        """Do it beside everything else; the caller is not heard until then. Raises OSError."""
        with self._unheard(caller, done, seconds) as ended:
            self._loop.child(freezing.reporting(work), ended, seconds=seconds)

    def _in_thread(
        self, caller: _Caller, work: Callable[[], Report], done: Callable[[Report], None], seconds: float
    ) -> None:
        """The same, by a thread of ours. Raises OSError."""
        with self._unheard(caller, done, seconds) as ended:
            beside.thread(self._loop, freezing.reporting(work), ended, seconds=seconds)

    @contextlib.contextmanager
    def _unheard(
        self, caller: _Caller, done: Callable[[Report], None], seconds: float
    ) -> Iterator[Callable[[Ended], None]]:
        """What is to be called when it has ended; if that cannot be begun, the caller is heard again."""

        def ended(end: Ended) -> None:
            if caller.busy:
                caller.busy = False
                if caller.fd in self._callers and self._callers[caller.fd] is caller:
                    self._loop.watch(caller.fd, lambda: self._hear(caller))
            done(_report(end, seconds))

        self._loop.forget(caller.fd)
        caller.busy = True
        caller.idle.cancel()
        try:
            yield ended
        except OSError:
            caller.busy = False
            self._loop.watch(caller.fd, lambda: self._hear(caller))
            raise

    def _send(self, caller: _Caller, answer: bytes, *fds: int) -> None:
        if self._callers.get(caller.fd) is not caller:
            return  # it has left
        try:
            socket.send_fds(caller.socket, [answer], list(fds))
        except OSError:  # it does not listen, or has left
            self._leave(caller)

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


def _is_free() -> bool:
    """Whether live update would begin now; if somebody has the device, a child waits for him, and we do not."""
    try:
        freezing.try_together((), patience=0)
    except Refusal:
        return False
    return True


def _report(end: Ended, seconds: float) -> Report:
    if end.late:
        return Report(f"it did not end within {seconds:g} s", errno.ETIMEDOUT)
    try:
        return freezing.read_report(end.output)
    except (ValueError, TypeError):
        return Report(f"the process that did it ended with {end.code}", errno.EIO)
