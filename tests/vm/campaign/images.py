# SPDX-License-Identifier: MIT
"""Kernel images, made worse: whole by all that their headers say, and of no use.

Documentation/arch/x86/boot.rst: the protected-mode code begins behind the setup's sectors, its 64-bit entry lies 0x200
bytes into it, and the compressed kernel where the header's payload_offset says.
"""

from __future__ import annotations

import struct

SETUP_SECTS, PAYLOAD = 0x1F1, 0x248
ENTRY_64 = 0x200

SPIN = b"\xfa\xf4\xeb\xfd"  # cli; hlt; jmp to the hlt

PAGE, SAMPLE = 4096, 64  # bytes


def hanging(kernel: bytes) -> bytes:
    """It stops its processor for good with its first instruction: no line, no interrupt, no panic."""
    at = _code(kernel) + ENTRY_64
    return kernel[:at] + SPIN + kernel[at + len(SPIN) :]


def sample(kernel: bytes) -> bytes:
    """A piece out of the middle of the compressed kernel, to find it in memory by; within one page of it there."""
    offset, length = struct.unpack_from("<II", kernel, PAYLOAD)
    at = (offset + length // 2) // PAGE * PAGE + PAGE // 2
    return kernel[_code(kernel) + at :][:SAMPLE]


def _code(kernel: bytes) -> int:
    return ((kernel[SETUP_SECTS] or 4) + 1) * 512
