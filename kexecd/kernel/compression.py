# SPDX-License-Identifier: MIT
"""How a file is compressed, by the bytes that it begins with (lib/decompress.c), and where a stream ends, without
unpacking it: from the sizes that zstd, lz4 and xz write down. Costs a few reads, whatever the file's size.

zstd: RFC 8878, a frame's headers and those of its blocks. lz4: only the legacy format, which is what the kernel takes
("LZ4 Frame Format Description", "Legacy frame"); it has no mark at its end, so that a cut between two blocks is not
seen here. xz: "The .xz File Format" 1.2, a stream's footer and its index; one stream, as the kernel takes them one by
one. The other formats do not tell.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from enum import StrEnum

LZ4_LEGACY = b"\x02\x21\x4c\x18"
LZ4_BLOCK = 8 << 20  # bytes of a block, unpacked
ZSTD_BLOCKS = 1 << 20  # of one frame: 128 GiB, if they are full
SKIPPABLE = range(0x184D2A50, 0x184D2A60)
XZ_HEADER = 12  # bytes, of its footer too
XZ_INDEX = 16 << 20  # bytes; a million blocks
READ = 1 << 20


class Compression(StrEnum):
    GZIP = "gzip"
    BZIP2 = "bzip2"
    LZMA = "lzma"
    XZ = "xz"
    LZO = "lzo"
    LZ4 = "lz4"
    ZSTD = "zstd"

    @property
    def tells_its_end(self) -> bool:
        return self in ENDS


MAGICS = {
    b"\x1f\x8b": Compression.GZIP,
    b"\x1f\x9e": Compression.GZIP,
    b"BZh": Compression.BZIP2,
    b"\x5d\0\0": Compression.LZMA,
    b"\xfd7zXZ\0": Compression.XZ,
    b"\x89LZO\0": Compression.LZO,
    LZ4_LEGACY: Compression.LZ4,
    b"\x28\xb5\x2f\xfd": Compression.ZSTD,
}


class Damaged(Exception):
    """These are not the data that a compressor, or cpio, wrote; the text says why."""


class Cut(Damaged):
    """They end too early; the text says how that was seen."""

    @classmethod
    def by(cls, missing: int) -> Cut:
        return cls(f"at least {missing} bytes are missing")


def compression(head: bytes) -> Compression | None:
    return next((kind for magic, kind in MAGICS.items() if head.startswith(magic)), None)


def stream_end(fd: int, kind: Compression, start: int, end: int) -> int:
    """Where the stream that begins at `start` ends, at most at `end`; `start` itself if its format does not tell.

    Raises Damaged where it is cut or does not make sense, and OSError.
    """
    walk = ENDS.get(kind)
    return walk(fd, start, end) if walk else start


def _zstd(fd: int, start: int, end: int) -> int:
    header = _read(fd, start, min(18, end - start))
    descriptor = header[4] if len(header) > 4 else 0
    single = descriptor >> 5 & 1
    content_size = (single, 2, 4, 8)[descriptor >> 6]
    at = start + 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + content_size
    for _ in range(ZSTD_BLOCKS):
        block = int.from_bytes(_whole(fd, at, 3, end), "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        if kind == 3:
            raise Damaged("it has a block of a kind that does not exist")
        at += 3 + (1 if kind == 1 else size)
        if last:
            return _inside(at + 4 * (descriptor >> 2 & 1), end)
    raise Damaged(f"it has more than {ZSTD_BLOCKS} blocks")


def _lz4(fd: int, start: int, end: int) -> int:
    at = start + 4
    while at + 4 <= end:
        word = _read(fd, at, 4)
        size = int.from_bytes(word, "little")
        if word == LZ4_LEGACY:
            at += 4
        elif 0 < size <= LZ4_BLOCK + LZ4_BLOCK // 255 + 16:  # LZ4_COMPRESSBOUND
            at = _inside(at + 4 + size, end)
        else:
            break  # zeros, or another archive
    else:
        if at < end and _read(fd, at, end - at).strip(b"\0"):
            raise Cut.by(at + 4 - end)
    return at


def _xz(fd: int, start: int, end: int) -> int:
    """The footer that belongs to the header at `start`: mostly it is the end, else it has to be searched for."""
    header = _whole(fd, start, XZ_HEADER, end)
    mark = header[6:8] + b"YZ"
    tail = _read(fd, max(start, end - READ), end - max(start, end - READ)).rstrip(b"\0")
    last = max(start, end - READ) + len(tail)
    if tail.endswith(mark) and _is_xz_end(fd, start, last):
        return last
    for footer in _search(fd, mark, start + XZ_HEADER, end):
        if _is_xz_end(fd, start, footer):
            return footer
    raise Cut("its xz stream has no end")


def _is_xz_end(fd: int, start: int, at: int) -> bool:
    """Whether a footer that ends at `at` closes a stream that began at `start`."""
    if at - start < 2 * XZ_HEADER:
        return False
    footer = _read(fd, at - XZ_HEADER, XZ_HEADER)
    checksum, words = (int.from_bytes(footer[i : i + 4], "little") for i in (0, 4))
    index_size = (words + 1) * 4
    if zlib.crc32(footer[4:10]) != checksum or index_size > min(XZ_INDEX, at - start - 2 * XZ_HEADER):
        return False
    index = _read(fd, at - XZ_HEADER - index_size, index_size)
    if index[0] != 0 or zlib.crc32(index[:-4]).to_bytes(4, "little") != index[-4:]:
        return False
    count, position = _number(index, 1)
    blocks = 0
    for _ in range(min(count, len(index))):
        unpadded, position = _number(index, position)
        _, position = _number(index, position)
        blocks += unpadded + -unpadded % 4
    return at == start + XZ_HEADER + blocks + index_size + XZ_HEADER


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A multibyte integer of xz, and where it ends."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80 or shift >= 63:
            break
    return value, at


def _search(fd: int, mark: bytes, start: int, end: int) -> Iterator[int]:
    """Where `mark` ends between the two offsets, read piece by piece."""
    for at in range(start, end, READ):
        piece = _read(fd, at, min(READ + len(mark) - 1, end - at))
        hit = piece.find(mark)
        while hit >= 0:
            yield at + hit + len(mark)
            hit = piece.find(mark, hit + 1)


def skippable_end(fd: int, at: int, end: int) -> int:
    """Where a frame of zstd and lz4 that carries no data ends; `at` itself if there is none. Raises Damaged."""
    header = _read(fd, at, min(8, end - at))
    if len(header) < 8 or int.from_bytes(header[:4], "little") not in SKIPPABLE:
        return at
    return _inside(at + 8 + int.from_bytes(header[4:], "little"), end)


def _whole(fd: int, at: int, count: int, end: int) -> bytes:
    _inside(at + count, end)
    return _read(fd, at, count)


def _inside(at: int, end: int) -> int:
    if at > end:
        raise Cut.by(at - end)
    return at


def _read(fd: int, at: int, count: int) -> bytes:
    data = os.pread(fd, count, at)
    if len(data) < count:
        raise Cut.by(count - len(data))
    return data


ENDS = {Compression.ZSTD: _zstd, Compression.LZ4: _lz4, Compression.XZ: _xz}
