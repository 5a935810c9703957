# SPDX-License-Identifier: MIT
"""A program that becomes N processes which only sleep, in 153 bytes: real processes, and thousands fit into a guest.

A static x86-64 ELF file without a library (elf(5)), since Python or even sleep(1) would need a gigabyte for what is
there to be killed. TERM ends it, as it ends whoever does not handle it.
"""

from __future__ import annotations

import struct

BASE = 0x400000
HEADERS = 64 + 56  # bytes: the ELF header and one program header
X86_64 = 62  # EM_X86_64, include/uapi/linux/elf-em.h


def program(processes: int) -> bytes:
    """The file: run, it forks until there are `processes` of it; each then sleeps in pause(2)."""
    code = b"".join(
        (
            b"\xbb" + struct.pack("<I", processes - 1),  # mov ebx, N - 1
            b"\x85\xdb",  # again: test ebx, ebx
            b"\x74\x0f",  # jz sleep
            b"\xb8" + struct.pack("<I", 57),  # mov eax, fork; arch/x86/entry/syscalls/syscall_64.tbl
            b"\x0f\x05",  # syscall
            b"\x85\xc0",  # test eax, eax
            b"\x74\x04",  # jz sleep
            b"\xff\xcb",  # dec ebx
            b"\xeb\xed",  # jmp again
            b"\xb8" + struct.pack("<I", 34),  # sleep: mov eax, pause
            b"\x0f\x05",  # syscall
            b"\xeb\xf7",  # jmp sleep
        )
    )
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)  # 64 bits, little-endian
    header = struct.pack("<HHIQQQIHHHHHH", 2, X86_64, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = HEADERS + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)  # PT_LOAD, readable and executable
    return ident + header + segment + code
