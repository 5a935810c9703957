# SPDX-License-Identifier: MIT
"""What takes time, beside the holder's loop: trying a memfd out, handing everything to the kernel, writing it down.

A child of the holder does it, which may be killed when it takes too long: what it has begun to write counts only when
it is whole. Handing everything to the kernel is on the way to the jump, and for a thread: kexecd.liveupdate.beside.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace

from kexecd.errors import Refusal, Unsupported
from kexecd.liveupdate import luo, memory
from kexecd.liveupdate.filestore import FileStore, Restored
from kexecd.liveupdate.index import Carrier, Entry, Index, Unreadable, parse

SESSION = "kexecd"
"""The name of our session: one for everything, made anew for each restart."""

TRIAL = "kexecd-trial"
BOOTING = 10.0  # seconds for others to be done with the device, when everybody takes his own
INDEX_TOKEN = 0
INDEX_LIMIT = 16 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Report:
    """What is told of it: why is empty if it is done; note: what did not go well and does not matter.

    sha256: of a content that cannot change any more, else empty. tried: how many bytes of a memfd the kernel has taken
    for an instant, -1 where it was not asked.
    """

    why: str = ""
    errno: int = 0
    note: str = ""
    sha256: str = ""
    seconds: float = 0.0
    tried: int = -1

    @classmethod
    def of(cls, error: OSError) -> Report:
        """That it has failed, and why."""
        return cls((error.strerror or str(error)).lower(), error.errno or errno.EIO)

    def send(self, writer: int) -> int:
        told = [self.why, self.errno, self.note, self.sha256, self.seconds, self.tried]
        os.write(writer, json.dumps(told).encode())
        return 0


def read_report(output: bytes) -> Report:
    """Raises ValueError for one that was cut short."""
    why, number, note, sha256, seconds, tried = json.loads(output)
    return Report(str(why), int(number), str(note), str(sha256), float(seconds), int(tried))


def reporting(work: Callable[[], Report]) -> Callable[[int], int]:
    """`work` as a child's or a thread's: what it raises is the reason."""

    def run(writer: int) -> int:
        begun = time.monotonic()
        try:
            report = work()
        except Refusal as refusal:
            return Report(refusal.why, refusal.errno).send(writer)
        except OSError as error:
            return Report.of(error).send(writer)
        return replace(report, seconds=time.monotonic() - begun).send(writer)

    return run


def try_out(fd: int) -> Report:
    """What can be told of a memfd that is handed over. Raises a Refusal if it cannot be carried."""
    note, tried = _preserved_for_an_instant(fd) if luo.available() else ("", -1)
    return Report(note=note, sha256=memory.sha256(fd) if memory.shape(fd).final else "", tried=tried)


def _preserved_for_an_instant(fd: int) -> tuple[str, int]:
    """The kernel is the judge of what it can carry. Returns a note, and the size that it has taken; raises a Refusal.

    Its holes are filled by that, and stay so, and what lies in the scratch areas moves out of them: neither has to be
    done on the way to the jump. A device that somebody else holds is no reason to refuse it.
    """
    try:
        session = luo.create(f"{TRIAL}-{os.getpid()}")
    except Refusal as refusal:
        return f"it could not be tried out: {refusal.why}", -1
    try:
        luo.preserve(session, fd, 1)
        return "", os.fstat(fd).st_size
    finally:
        os.close(session)  # and it can grow again


def try_together(fds: Sequence[int], *, patience: float = luo.PATIENCE) -> Report:
    """Have the kernel take them for an instant; for none of them, see whether it would begin. Raises a Refusal."""
    session = luo.create(f"{TRIAL}-{os.getpid()}", patience=patience)
    try:
        for token, fd in enumerate(fds):
            luo.preserve(session, fd, token)
    finally:
        os.close(session)
    return Report()


def to_memory(
    index: Index,
    fds: Sequence[int],
    session: int,
    store: FileStore,
    go_on: Callable[[], bool] = lambda: True,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Report:
    """Hand everything to the kernel. Raises a Refusal, and OSError once go_on() says no: ECANCELED.

    turn: what the disk's index is put in its place in, if at all (kexecd.liveupdate.beside).
    """
    for token, fd in enumerate(fds, INDEX_TOKEN + 1):
        _check(go_on)
        luo.preserve(session, fd, token)
    # Only now, since only now they cannot grow any more.
    entries = (replace(entry, shape=memory.shape(fd)) for entry, fd in zip(index.entries, fds, strict=True))
    index = replace(index, entries=tuple(entries))
    listing = memory.make("kexecd-index", 0o600)
    try:
        os.write(listing, index.text())
        memory.complete(listing, replace(memory.shape(listing), seals=memory.FINAL, position=0))
        luo.preserve(session, listing, INDEX_TOKEN)
    finally:
        os.close(listing)
    _check(go_on)
    try:
        store.note(index, turn)
    except OSError as error:
        lacking = (error.strerror or str(error)).lower()
        return Report(note=f"the next boot could not tell what was lost, if it were: {lacking}")
    return Report()


def _check(go_on: Callable[[], bool]) -> None:
    if not go_on():
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


def to_files(index: Index, fds: Sequence[int], store: FileStore) -> Report:
    """Raises OSError, and Lost where there is no room."""
    store.check_room(sum(os.fstat(fd).st_size for fd in fds))
    store.write(index, fds)
    return Report()


def forget(store: FileStore) -> Report:
    """Remove what was written, as it is not needed. Raises OSError."""
    store.forget()
    return Report()


def restore(store: FileStore, boot_id: str) -> Restored | None:
    """What was frozen before this holder started, wherever it lies; None if nothing was. Raises nothing.

    Of the session nothing is left afterwards. The files are the caller's to forget, when all is in its hands.
    """
    written, unread = _written(store)
    again = False
    try:
        if found := _from_memory():
            return found
    except Refusal as refusal:
        unread, again = unread or refusal.why, refusal.errno == errno.EBUSY
    if written is None:
        # Whether memory had anything cannot be told then, and mostly it had not: what it has is noted on the disk too.
        return Restored(_nothing(boot_id), (), ((_UNKNOWN, unread),), again=True) if unread and not again else None
    if written.carrier is Carrier.FILE:
        return store.restore(written)
    here = written.boot_id == boot_id
    why = unread or ("its holder ended before the restart" if here else "no kexec that carries memory led to this boot")
    lost = tuple((entry, why) for entry in written.entries)
    return Restored(written, (None,) * len(written.entries), lost, again)


_UNKNOWN = Entry(0, "index", memory.Shape(0, 0, 0, 0))
"""Stands for whatever there may have been, where that cannot be read."""


def _nothing(boot_id: str) -> Index:
    return Index("0" * 16, boot_id, Carrier.FILE, 0.0, ())


def _written(store: FileStore) -> tuple[Index | None, str]:
    try:
        return store.index(), ""
    except Unreadable as error:
        store.lay_aside_index()
        return None, f"{store.directory} holds an index that cannot be read: {error}"
    except OSError as error:
        return None, f"{store.directory} cannot be read: {(error.strerror or str(error)).lower()}"


def _from_memory() -> Restored | None:
    """What the kernel has carried. Raises a Refusal."""
    if not luo.available() or (session := luo.retrieve(SESSION, patience=BOOTING)) is None:
        return None
    try:
        index = _index(session)
        fds: list[int | None] = []
        lost = []
        for token, entry in enumerate(index.entries, INDEX_TOKEN + 1):
            fd, why = _one(session, token, entry)
            fds.append(fd)
            if fd is None:
                lost.append((entry, why))
        with suppress(Refusal):  # closing it does the same
            luo.finish(session)
        return Restored(index, tuple(fds), tuple(lost))
    finally:
        os.close(session)


def _index(session: int) -> Index:
    fd = luo.take(session, INDEX_TOKEN)
    try:
        return parse(os.pread(fd, INDEX_LIMIT, 0))
    except Unreadable as error:
        raise Unsupported(f"cannot take over the session {SESSION}", f"its index cannot be read: {error}") from error
    finally:
        os.close(fd)


def _one(session: int, token: int, entry: Entry) -> tuple[int | None, str]:
    """One memfd that the kernel has carried, or why not. A checksum is there where nobody could write any more."""
    try:
        fd = luo.take(session, token)
    except Refusal as refusal:
        return None, refusal.why
    try:
        now = memory.shape(fd)
    except Refusal as refusal:
        os.close(fd)
        return None, refusal.why
    if now.bytes != entry.shape.bytes or now.seals != entry.shape.seals:
        was = entry.shape
        why = f"it came with {now.bytes} bytes and seals {now.seals:#x}, not {was.bytes} and {was.seals:#x}"
    elif entry.sha256 and memory.sha256(fd) != entry.sha256:
        why = "its content is not what was handed over: the checksum is another one"
    else:
        return fd, ""
    os.close(fd)
    return None, why
