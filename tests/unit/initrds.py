# SPDX-License-Identifier: MIT
"""Initrds, as cpio's newc format and the compressors' formats define them."""

from __future__ import annotations

import lzma
import zlib
from struct import pack

MICROCODE = "kernel/x86/microcode/GenuineIntel.bin"
VERSION = "6.1.0-50-amd64"


def newc(*names: str, size: int = 100, trailer: bool = True, padding: int = 512) -> bytes:
    """An archive with these members: with a slash at its end a directory, else a file of `size` bytes."""
    archive = b"".join(_member(name.rstrip("/"), name.endswith("/"), size) for name in names)
    if trailer:
        archive += _member("TRAILER!!!", True, 0)
    return archive + bytes(-len(archive) % padding)


def _member(name: str, directory: bool, size: int) -> bytes:
    content = b"" if directory else (name.encode() * size)[:size]
    mode = 0 if name == "TRAILER!!!" else 0o040755 if directory else 0o100644
    fields = (1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def tree(version: str = VERSION, *, size: int = 100) -> bytes:
    """What an initramfs of a distribution has, in short."""
    modules = f"usr/lib/modules/{version}"
    return newc(
        ".", "bin", "init", "usr/", "usr/lib/", "usr/lib/modules/", f"{modules}/", f"{modules}/ext4.ko", size=size
    )


def early() -> bytes:
    return newc("kernel/", "kernel/x86/", "kernel/x86/microcode/", MICROCODE)


def zstd(content: bytes, *, block: int = 1000, checksum: bool = False) -> bytes:
    """RFC 8878, with blocks that are not compressed: every decoder takes them. The checksum is not right."""
    blocks = [content[at : at + block] for at in range(0, len(content), block)] or [b""]
    out = b"\x28\xb5\x2f\xfd" + bytes([0x04 if checksum else 0, 0x58])
    for index, piece in enumerate(blocks):
        out += (len(piece) << 3 | (index == len(blocks) - 1)).to_bytes(3, "little") + piece
    return out + (b"\1\2\3\4" if checksum else b"")


def lz4(content: bytes, *, block: int = 1000) -> bytes:
    """The legacy format, with blocks of nothing but literals."""
    out = b"\x02\x21\x4c\x18"
    for at in range(0, len(content), block):
        piece = content[at : at + block]
        rest = len(piece) - 15
        token = b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255]) if rest >= 0 else bytes([len(piece) << 4])
        out += pack("<I", len(token) + len(piece)) + token + piece
    return out


def xz(content: bytes) -> bytes:
    return lzma.compress(content, check=lzma.CHECK_CRC32)


def gzip(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(content) + packer.flush()
