# SPDX-License-Identifier: MIT
"""The archives in an initrd, member by member: cpio's "newc" format, also with checksums, and nothing but its headers.

Format and what the kernel makes of it: Documentation/driver-api/early-userspace/buffer-format.rst, init/initramfs.c.
The content of a member is passed over; of a file in an archive that is not compressed, it is not even read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from kexecd.kernel.compression import Cut, Damaged

MAGICS = (b"070701", b"070702")
HEADER = 110  # bytes: the magic and 13 numbers of 8 hexadecimal digits
NUMBERS = re.compile(rb"[0-9A-Fa-f]{104}")
LONGEST_NAME = 4096  # PATH_MAX
ALIGNMENT = 4  # bytes; of headers and contents
TRAILER = "TRAILER!!!"
BUFFER = 4096


class NotCpio(Damaged):
    """There is something else."""


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    mode: int
    size: int


class Source(Protocol):
    """Bytes in a row."""

    position: int

    def read(self, count: int) -> bytes:
        """Fewer only where it ends."""

    def skip(self, count: int) -> int:
        """Pass over `count` bytes; returns how many of them there were."""


class FileSource:
    """A part of a file. Raises OSError."""

    def __init__(self, fd: int, start: int, end: int) -> None:
        self.position = start
        self._fd, self._end = fd, end
        self._buffer, self._at = b"", start

    def read(self, count: int) -> bytes:
        count = min(count, self._end - self.position)
        if not self._at <= self.position <= self._at + len(self._buffer) - count:
            self._buffer, self._at = os.pread(self._fd, max(count, BUFFER), self.position), self.position
        data = self._buffer[self.position - self._at :][:count]
        self.position += len(data)
        return data

    def skip(self, count: int) -> int:
        count = min(count, self._end - self.position)
        self.position += count
        return count


class StreamSource:
    """What comes piece by piece out of something compressed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.position = 0
        self._pieces, self._buffer, self._at = pieces, b"", 0

    def read(self, count: int) -> bytes:
        data = self._take(count)
        while len(data) < count and self._refill():
            data += self._take(count - len(data))
        return data

    def skip(self, count: int) -> int:
        skipped = len(self._take(count))
        while skipped < count and self._refill():
            skipped += len(self._take(count - skipped))
        return skipped

    def more(self) -> bool:
        """Pass over zeros, as between two archives; returns whether something comes then."""
        while self._at < len(self._buffer) or self._refill():
            rest = self._buffer[self._at :].lstrip(b"\0")
            self.position += len(self._buffer) - self._at - len(rest)
            self._at = len(self._buffer) - len(rest)
            if rest:
                return True
        return False

    def _take(self, count: int) -> bytes:
        data = self._buffer[self._at : self._at + count]
        self._at += len(data)
        self.position += len(data)
        return data

    def _refill(self) -> bool:
        self._buffer, self._at = next(self._pieces, b""), 0
        return bool(self._buffer)


def members(source: Source) -> Iterator[Member]:
    """The members of the archive that begins here, without its trailer; then the source stands behind that.

    Raises NotCpio where there is none, Damaged where it is cut or makes no sense.
    """
    start = source.position
    while True:
        at = source.position - start
        header = source.read(HEADER)
        if not at and header[:6] not in MAGICS:
            raise NotCpio("it is no cpio archive")
        if len(header) < HEADER:
            raise _cut(HEADER - len(header))
        if header[:6] not in MAGICS or not NUMBERS.fullmatch(header, 6):
            raise Damaged(f"its cpio archive is damaged {at} bytes behind its start")
        numbers = [int(header[at : at + 8], 16) for at in range(6, HEADER, 8)]
        mode, size, name_size = numbers[1], numbers[6], numbers[11]
        if not 0 < name_size <= LONGEST_NAME:
            raise Damaged(f"its cpio archive has a name of {name_size} bytes")
        raw = source.read(name_size)
        if len(raw) < name_size:
            raise _cut(name_size - len(raw) + size)
        name = raw.partition(b"\0")[0].decode(errors="surrogateescape")
        if name == TRAILER:
            return
        _skip(source, -(HEADER + name_size) % ALIGNMENT + size)
        yield Member(name, mode, size)
        _skip(source, -size % ALIGNMENT)


def _skip(source: Source, count: int) -> None:
    missing = count - source.skip(count)
    if missing:
        raise _cut(missing)


def _cut(missing: int) -> Cut:
    return Cut(f"its cpio archive lacks at least {missing} bytes")
