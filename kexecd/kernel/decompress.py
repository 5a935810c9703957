# SPDX-License-Identifier: MIT
"""Unpacking, piece by piece: bounded memory, bounded time, and never more than the caller takes.

gzip, xz, lzma and bzip2 are in Python's own library. zstd is there from 3.14 on; before, the modules backports.zstd or
zstandard serve, else the program zstd. lz4 and lzo take their programs. One stream is unpacked at a time, as the kernel
does it (lib/decompress*.c).
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Generator
from importlib import import_module
from typing import Any, Protocol

from kexecd.kernel.compression import Compression, Cut, Damaged

READ = 1 << 16  # bytes that are read at once
PIECE = 1 << 18  # bytes that are handed out at once, at most
MEMORY = 256 << 20  # bytes for a decoder; `xz -9` takes 65 MiB, `zstd --ultra -22` 128

PROGRAMS = {Compression.ZSTD: "zstd", Compression.LZ4: "lz4", Compression.LZO: "lzop"}
"""Each is also the name of its package, in Debian and, as app-arch/NAME, in Gentoo."""

# The program's output goes into a pipe that we read; so it is stopped by our not reading on.
REDIRECT = 'exec "$0" -dcq <"$1" >"$2"'


class NoHelper(Exception):
    """There is no program to unpack this with."""

    def __init__(self, kind: Compression, program: str) -> None:
        super().__init__(f"unpacking {kind} takes the program {program}, which is not installed")
        self.package = program


class OutOfTime(Exception):
    """The budget is spent."""


class Budget:
    """How long something may take, all in all, in seconds: of our own CPU, and on the clock."""

    def __init__(self, cpu: float, wall: float) -> None:
        self._cpu, self._wall = time.process_time() + cpu, time.monotonic() + wall

    def left(self) -> float:
        """Seconds of the clock; raises OutOfTime when there are none."""
        left = self._wall - time.monotonic()
        if left <= 0 or time.process_time() >= self._cpu:
            raise OutOfTime
        return left


class Decoder(Protocol):
    """What lzma, bz2 and compression.zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Unpacking:
    """One stream of a file that is being unpacked; `end` is where it ends in the file, once it has been seen."""

    def __init__(self, fd: int, kind: Compression, start: int, end: int, budget: Budget) -> None:
        """end: of the stream where that is known, else of the file."""
        self.end: int | None = None
        self._fd, self._kind, self._start, self._last, self._budget = fd, kind, start, end, budget

    def pieces(self) -> Generator[bytes, None, None]:
        """Its content. Raises Damaged, NoHelper, OutOfTime, OSError; whoever stops early closes the iterator."""
        if decoder := _decoder(self._kind):
            return self._decoded(decoder)
        return self._piped(_program(self._kind))

    def _decoded(self, decoder: Decoder) -> Generator[bytes, None, None]:
        at = self._start
        while not decoder.eof:
            self._budget.left()
            data = b""
            if decoder.needs_input:
                data = os.pread(self._fd, min(READ, self._last - at), at)
                at += len(data)
                if not data:
                    raise Cut(f"its {self._kind} stream has no end")
            try:
                piece = decoder.decompress(data, PIECE)
            except OSError:
                raise Damaged(f"its {self._kind} stream is damaged") from None  # what bz2 says with an OSError
            except Exception as error:  # each of them has a class of its own, in a module that may not be there
                raise Damaged(f"its {self._kind} stream is damaged: {error}") from error
            if piece:
                yield piece
        self.end = at - len(decoder.unused_data)

    def _piped(self, program: str) -> Generator[bytes, None, None]:
        from kexecd.kernel import spawn  # late: subprocess costs as much as all the rest, and is rarely needed here

        source = _alone(self._fd, self._start, self._last)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            command = ["/bin/sh", "-c", REDIRECT, program, f"/proc/self/fd/{source}", f"/proc/self/fd/{writer}"]
            spawned = spawn.start(command, pass_fds=(source, writer))
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
            os.close(source)
        running = True
        try:
            while _readable(reader, self._budget) and (piece := os.read(reader, PIECE)):
                yield piece
            _readable(spawned.pidfd, self._budget)
            running, finished = False, spawned.finish()
            if finished.exit_code:
                raise Damaged(f"its {self._kind} stream is damaged: {finished.last_line}")
            self.end = self._last
        finally:
            os.close(reader)
            if running:
                spawned.kill()


def _decoder(kind: Compression) -> Decoder | None:
    """Late imports: which of these is needed is not known before."""
    if kind is Compression.GZIP:
        return _Gzip()
    if kind in (Compression.XZ, Compression.LZMA):
        import lzma

        return lzma.LZMADecompressor(lzma.FORMAT_XZ if kind is Compression.XZ else lzma.FORMAT_ALONE, MEMORY)
    if kind is Compression.BZIP2:
        import bz2

        return bz2.BZ2Decompressor()
    return _zstd_decoder() if kind is Compression.ZSTD else None


def _zstd_decoder() -> Decoder | None:
    makers: tuple[tuple[str, Callable[[Any], Decoder]], ...] = (
        ("compression.zstd", lambda module: module.ZstdDecompressor()),  # Python 3.14
        ("backports.zstd", lambda module: module.ZstdDecompressor()),
        ("zstandard", _Zstandard),
    )
    for name, make in makers:
        try:
            return make(import_module(name))
        except ImportError:
            continue
    return None


class _Gzip:
    """zlib, with the manners of the others."""

    def __init__(self) -> None:
        import zlib

        self._zlib = zlib.decompressobj(wbits=31)
        self._more = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._more

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        # Filled to the brim, it may hold more back than its tail shows.
        self._more = bool(self._zlib.unconsumed_tail) or len(piece) == max_length
        return piece


class _Zstandard:
    """The module zstandard: it unpacks what it is given at once, so it is given little."""

    STEP = 512  # bytes; a block takes four at least and makes 128 KiB

    def __init__(self, module: Any) -> None:
        self._object = module.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        self._waiting = b""

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._object.unused_data) + self._waiting

    @property
    def needs_input(self) -> bool:
        return not self._waiting

    def decompress(self, data: bytes, max_length: int) -> bytes:
        data = self._waiting + data
        self._waiting = data[self.STEP :]
        return bytes(self._object.decompress(data[: self.STEP]))


def _program(kind: Compression) -> str:
    import shutil

    from kexecd.kernel.spawn import ENVIRONMENT  # late, see above

    name = PROGRAMS[kind]
    path = shutil.which(name, path=ENVIRONMENT["PATH"])
    if path is None:
        raise NoHelper(kind, name)
    return path


def _alone(fd: int, start: int, end: int) -> int:
    """A descriptor of this part of the file alone."""
    memory = os.memfd_create("compressed", os.MFD_CLOEXEC)
    try:
        copy(fd, start, end, memory)
    except BaseException:
        os.close(memory)
        raise
    return memory


def copy(fd: int, start: int, end: int, memory: int) -> None:
    """Copy this part of the file behind what `memory` has. Raises OSError and Damaged."""
    while start < end:
        count = os.sendfile(memory, fd, start, end - start)
        if count == 0:
            raise Cut.by(end - start)
        start += count


def _readable(fd: int, budget: Budget) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(budget.left() * 1000):
        raise OutOfTime
    return True
