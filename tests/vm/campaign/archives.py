# SPDX-License-Identifier: MIT
"""Initrds, made worse: a file put over what is there, or files left out.

The kernel unpacks one archive after the other, and a later one's files take the place of an earlier one's
(Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import re
import subprocess

HEADER = 110  # bytes: the magic and 13 numbers of 8 hexadecimal digits
MAGIC = b"070701"
TRAILER = "TRAILER!!!"
ZSTD = b"\x28\xb5\x2f\xfd"

DIRECTORY, PROGRAM = 0o040755, 0o100755

TIMEOUT = 60.0


def with_init(initrd: bytes, program: bytes) -> bytes:
    """The same with another /init."""
    over = _member("proc", DIRECTORY, b"") + _member("init", PROGRAM, program) + _member(TRAILER, 0, b"")
    return initrd + bytes(-len(initrd) % 4) + over


def without(initrd: bytes, pattern: str) -> bytes:
    """The same, unpacked, without the members whose name `pattern` is found in; there has to be one."""
    data, kept, left_out, at = _unpacked(initrd), [], 0, 0
    while data[at : at + 6] == MAGIC:
        numbers = [int(data[place : place + 8], 16) for place in range(at + 6, at + HEADER, 8)]
        size, name_size = numbers[6], numbers[11]
        content = _aligned(at + HEADER + name_size)
        end = _aligned(content + size)
        name = data[at + HEADER : at + HEADER + name_size - 1].decode()
        if re.search(pattern, name):
            left_out += 1
        else:
            kept.append(data[at:end])
        at = end
        if name == TRAILER:
            break
    if not left_out:
        raise ValueError(f"nothing in this initrd is called {pattern}")
    return b"".join(kept)


def _unpacked(initrd: bytes) -> bytes:
    if not initrd.startswith(ZSTD):
        return initrd
    return subprocess.run(["zstd", "-dc"], input=initrd, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT).stdout


def _member(name: str, mode: int, content: bytes) -> bytes:
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = MAGIC + b"".join(b"%08X" % number for number in numbers) + path
    return header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4)


def _aligned(position: int) -> int:
    return position + -position % 4
