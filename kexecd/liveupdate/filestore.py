# SPDX-License-Identifier: MIT
"""The content in files, /var/lib/kexecd/live/, root's alone: where no live update carries it, and over the firmware.

    index.json               what there is (kexecd.liveupdate.index); written last, and so what makes the rest count
    ID-0, ID-1, ...          the content of its entries; ID is the freeze's
    damaged/                 what did not come back as it was: for a person to look at, until the next freeze

Power may fail at any moment: until index.json is in its place nothing has been carried, and from then on everything
is, on the disk and by checksum. What an index does not name is removed at the next look.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from kexecd.errors import BadImage
from kexecd.kernel import files
from kexecd.liveupdate import memory
from kexecd.liveupdate.index import Carrier, Entry, Index, parse

LIVE = "/var/lib/kexecd/live"
INDEX = "index.json"
DAMAGED = "damaged"
INDEX_LIMIT = 16 << 20  # bytes
SPARE = 64 << 20  # bytes of the disk that are left to everybody else
TRIAL = 8 << 20  # bytes that are written to see how fast it goes
ZEROS = bytes(memory.PART)


@dataclass(frozen=True, slots=True)
class Restored:
    """fds: in the index's order, None for what did not come back; lost: why not.

    again: it may come yet, so that the disk is left as it is.
    """

    index: Index
    fds: tuple[int | None, ...]
    lost: tuple[tuple[Entry, str], ...]
    again: bool = False


class FileStore:
    """One process at a time uses it: the holder, or a child of it. A thread of the holder's that was given up may be
    at note() all the same.
    """

    def __init__(self, directory: str = LIVE) -> None:
        self.directory = directory

    def write(self, index: Index, fds: Sequence[int]) -> Index:
        """Put the content of `fds` on the disk; what is returned has the checksums. Raises OSError.

        Whatever goes wrong, what was begun is removed, and what an earlier freeze has left unread is as it was.
        """
        self._make()
        written: list[str] = []
        entries = []
        try:
            for number, (entry, fd) in enumerate(zip(index.entries, fds, strict=True)):
                written.append(self._path(index, number))
                entries.append(self._write(written[-1], entry, fd))
            files.sync_directory(self.directory)
            finished = replace(index, entries=tuple(entries))
            self.note(finished)
        except BaseException:
            for path in written:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            raise
        self._sweep(finished)
        return finished

    def note(self, index: Index, turn: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Put the index in its place, in one go. turn: what that alone is done in; if it raises, nothing has changed.
        Raises OSError.
        """
        self._make()
        # Nobody else's name: in this process there may be a thread that was given up at an index of its own.
        temporary = os.path.join(self.directory, f".{INDEX}.{os.getpid()}.{index.id}")
        out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                _write_all(out, index.text())
                os.fsync(out)
            finally:
                os.close(out)
            with turn():
                os.rename(temporary, os.path.join(self.directory, INDEX))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        files.sync_directory(self.directory)

    def index(self) -> Index | None:
        """What was frozen last and has not come back yet; None if nothing was. Raises Unreadable and OSError."""
        path = os.path.join(self.directory, INDEX)
        text = files.read_text(path, limit=INDEX_LIMIT)
        return None if text is None else parse(text.encode(errors="surrogateescape"))

    def restore(self, index: Index) -> Restored:
        """New memfds of what lies there. What is not as it was goes to damaged/. Nothing is removed yet: forget()."""
        fds: list[int | None] = []
        lost = []
        for number, entry in enumerate(index.entries):
            path = self._path(index, number)
            try:
                fds.append(_read(path, entry))
            except (OSError, BadImage) as error:
                why = error.why if isinstance(error, BadImage) else (error.strerror or str(error)).lower()
                fds.append(None)
                lost.append((entry, f"{why}, and is kept in {os.path.join(self.directory, DAMAGED)}"))
                self._lay_aside(path)
        return Restored(index, tuple(fds), tuple(lost))

    def forget(self) -> None:
        """It has come back, or is not wanted: first the index, so that the rest is never taken for whole. OSError."""
        if os.path.isdir(self.directory):
            files.remove(os.path.join(self.directory, INDEX))
            self._sweep(None)

    def lay_aside_index(self) -> None:
        """Out of the way, as it cannot be read. Raises OSError."""
        self._lay_aside(os.path.join(self.directory, INDEX))

    def room(self) -> int:
        """Bytes that may be written here. Raises OSError."""
        self._make()
        status = os.statvfs(self.directory)
        return max(0, status.f_bavail * status.f_frsize - SPARE)

    def check_room(self, wanted: int) -> None:
        """Raises Lost where so many bytes cannot be written."""
        what = "cannot keep what applications have handed over"
        try:
            free = self.room()
        except OSError as error:
            why = f"{self.directory}: {(error.strerror or str(error)).lower()}"
            raise memory.Lost(what, why, errno=error.errno or 0) from error
        if wanted > free:
            why = f"it takes {_mib(wanted)} in {self.directory}, where {_mib(free)} may be written"
            raise memory.Lost(what, why, hint="make room there, or let an application drop what it does not need")

    def rate(self, clock: Callable[[], float] = time.monotonic) -> float:
        """Bytes a second that reach this disk for good, measured. Raises OSError."""
        self._make()
        path = os.path.join(self.directory, f".trial.{os.getpid()}")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            part = os.urandom(1 << 16) * (TRIAL >> 16)  # nothing that a disk would take for zeros
            begun = clock()
            hashlib.sha256(part).digest()
            _write_all(fd, part)
            os.fsync(fd)
            return TRIAL / max(clock() - begun, 1e-6)
        finally:
            os.close(fd)
            os.unlink(path)

    def _write(self, path: str, entry: Entry, fd: int) -> Entry:
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            digest, buffer, position = hashlib.sha256(), memoryview(bytearray(memory.PART)), 0
            while count := os.preadv(fd, [buffer], position):
                part = buffer[:count]
                digest.update(part)
                if part == ZEROS[:count]:  # much of a large table mostly is
                    os.lseek(out, count, os.SEEK_CUR)
                else:
                    _write_all(out, part)
                position += count
            os.ftruncate(out, position)
            os.fsync(out)
        finally:
            os.close(out)
        # As large as it is now, whatever it was when the index was begun.
        return replace(entry, sha256=digest.hexdigest(), shape=replace(entry.shape, bytes=position))

    def _make(self) -> None:
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        os.chmod(self.directory, 0o700)

    def _path(self, index: Index, number: int) -> str:
        return os.path.join(self.directory, f"{index.id}-{number}")

    def _sweep(self, index: Index | None) -> None:
        """Remove what no index names, and with a new one what was laid aside before. Raises OSError."""
        named: set[str] = set()
        if index:
            if index.carrier is Carrier.FILE:
                named = {os.path.basename(self._path(index, number)) for number in range(len(index.entries))}
            self._remove_damaged()
        for name in os.listdir(self.directory):
            if name not in {*named, INDEX, DAMAGED}:
                with contextlib.suppress(FileNotFoundError):  # whoever was at note() has removed it
                    os.unlink(os.path.join(self.directory, name))
        files.sync_directory(self.directory)

    def _lay_aside(self, path: str) -> None:
        aside = os.path.join(self.directory, DAMAGED)
        with contextlib.suppress(OSError):  # it is not there at all, which has been said
            os.makedirs(aside, mode=0o700, exist_ok=True)
            os.rename(path, os.path.join(aside, os.path.basename(path)))

    def _remove_damaged(self) -> None:
        aside = os.path.join(self.directory, DAMAGED)
        if os.path.isdir(aside):
            for name in os.listdir(aside):
                os.unlink(os.path.join(aside, name))
            os.rmdir(aside)


def _read(path: str, entry: Entry) -> int:
    """A memfd with what is in the file. Raises OSError, and BadImage where it is not what was written."""
    what = f"cannot restore {entry.name} of user {entry.uid}"
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(source).st_size
        if size != entry.shape.bytes:
            raise BadImage(what, f"its file has {size} bytes and not {entry.shape.bytes}")
        fd = memory.make(entry.name, entry.shape.mode)
        try:
            os.ftruncate(fd, size)
            digest, buffer, position = hashlib.sha256(), memoryview(bytearray(memory.PART)), 0
            while count := os.preadv(source, [buffer], position):
                part = buffer[:count]
                digest.update(part)
                if part != ZEROS[:count]:
                    _pwrite_all(fd, part, position)
                position += count
            if digest.hexdigest() != entry.sha256:
                raise BadImage(what, "its content is not what was written: the checksum is another one")
            memory.complete(fd, entry.shape)
        except BaseException:
            os.close(fd)
            raise
    finally:
        os.close(source)
    return fd


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _pwrite_all(fd: int, data: memoryview, position: int) -> None:
    while data:
        count = os.pwrite(fd, data, position)
        data, position = data[count:], position + count


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
