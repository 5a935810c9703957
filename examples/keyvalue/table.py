# SPDX-License-Identifier: MIT
"""A table in a memfd: a log of what was set, and in front of it how much of that counts.

    0   8 bytes   the mark
    8   8 bytes   where the log ends; written last, so that a record is there or is not
    16            records: 4 bytes each for the lengths of key and value, then these; the last one of a key counts
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct

from kexecd import client

MARK = b"keyvalue"
HEAD = struct.Struct("<8sQ")
RECORD = struct.Struct("<II")
STEP = 1 << 20  # bytes by which the memory grows


class Frozen(Exception):
    """This machine restarts, and the memory may not grow any more."""


class Table:
    """What was there before a restart is there again. name: what it is called at kexecd's."""

    def __init__(self, name: str, *, path: str = client.SOCKET) -> None:
        fd = client.get(name, path=path)
        if fd is None:
            fd = os.memfd_create(name, os.MFD_CLOEXEC)
            os.ftruncate(fd, STEP)
            os.pwrite(fd, HEAD.pack(MARK, HEAD.size), 0)
            client.put(name, fd, path=path)
        self._fd = fd
        self._memory = mmap.mmap(fd, 0)
        mark, self._end = HEAD.unpack_from(self._memory)
        if mark != MARK:
            raise ValueError(f"{name} is no table of ours")
        self._values: dict[bytes, bytes] = {}
        self.writes = 0
        self._replay()

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def set(self, key: bytes, value: bytes) -> None:
        """It is kept when this returns; raises Frozen if it is not."""
        record = RECORD.pack(len(key), len(value)) + key + value
        self._make_room(len(record))
        self._memory[self._end : self._end + len(record)] = record
        self._end += len(record)
        self._memory[: HEAD.size] = HEAD.pack(MARK, self._end)
        self._values[key] = value
        self.writes += 1

    def __len__(self) -> int:
        return len(self._values)

    def checksum(self) -> str:
        """Over all keys and values, in order."""
        digest = hashlib.sha256()
        for key in sorted(self._values):
            digest.update(RECORD.pack(len(key), len(self._values[key])) + key + self._values[key])
        return digest.hexdigest()

    def _make_room(self, count: int) -> None:
        size = len(self._memory)
        if self._end + count <= size:
            return
        try:
            os.ftruncate(self._fd, size + -(-count // STEP) * STEP + size // 2)
        except PermissionError as frozen:
            raise Frozen from frozen
        self._memory.close()
        self._memory = mmap.mmap(self._fd, 0)

    def _replay(self) -> None:
        at = HEAD.size
        while at < self._end:
            key, value = RECORD.unpack_from(self._memory, at)
            at += RECORD.size
            self._values[self._memory[at : at + key]] = self._memory[at + key : at + key + value]
            at += key + value
            self.writes += 1
