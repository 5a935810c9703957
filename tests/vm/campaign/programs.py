# SPDX-License-Identifier: MIT
"""Programs of a few instructions, for the /init of a bad initrd: whole ELF files, so that neither a compiler nor
anything that is in the initrd is needed.

Numbers of system calls: arch/x86/entry/syscalls/syscall_64.tbl; ELF header and program header: elf(5).
"""

from __future__ import annotations

import struct

BASE = 0x400000
HEADERS = 64 + 56  # bytes: the ELF header and one program header

EM_X86_64, ET_EXEC, PT_LOAD, RX = 62, 2, 1, 5

SYSCALL = b"\x0f\x05"


def crash() -> bytes:
    """Ask the kernel to crash, as Documentation/admin-guide/sysrq.rst has it: `c`. Where there is no /proc, end, which
    a kernel does not survive either.
    """
    strings = b"/proc\0proc\0/proc/sysrq-trigger\0c\0"
    directory, kind, trigger, letter = 0, 6, 11, 31

    def code(text: int) -> bytes:
        return b"".join(
            (
                _set(b"\xbf", text + kind),  # mount("proc", "/proc", "proc", 0, 0)
                _set(b"\xbe", text + directory),
                _set(b"\xba", text + kind),
                b"\x4d\x31\xd2\x4d\x31\xc0",  # xor r10, r10; xor r8, r8
                _call(165),
                _set(b"\xbf", text + trigger),  # open("/proc/sysrq-trigger", O_WRONLY)
                _set(b"\xbe", 1),
                _call(2),
                b"\x89\xc7",  # mov edi, eax
                _set(b"\xbe", text + letter),  # write(fd, "c", 1)
                _set(b"\xba", 1),
                _call(1),
                _set(b"\xbf", 1),  # exit(1)
                _call(60),
            )
        )

    return _elf(code(BASE + HEADERS + len(code(0))) + strings)


def eat() -> bytes:
    """Take one MiB of memory after the other, all of it filled by the kernel, and never give any back."""
    flags = 0x02 | 0x20 | 0x8000  # MAP_PRIVATE, MAP_ANONYMOUS, MAP_POPULATE: include/uapi/asm-generic/mman-common.h
    body = b"".join(
        (
            b"\x31\xff",  # xor edi, edi: mmap(0, 1 MiB, PROT_READ | PROT_WRITE, flags, -1, 0)
            _set(b"\xbe", 1 << 20),
            _set(b"\xba", 3),
            _set(b"\x41\xba", flags),
            b"\x49\xc7\xc0\xff\xff\xff\xff",  # mov r8, -1
            b"\x4d\x31\xc9",  # xor r9, r9
            _call(9),
        )
    )
    return _elf(body + b"\xeb" + struct.pack("<b", -len(body) - 2))


def _set(opcode: bytes, value: int) -> bytes:
    """mov r32, imm32."""
    return opcode + struct.pack("<I", value)


def _call(number: int) -> bytes:
    return _set(b"\xb8", number) + SYSCALL


def _elf(text: bytes) -> bytes:
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bits, little endian
    entry, size = BASE + HEADERS, HEADERS + len(text)
    header = ident + struct.pack("<HHIQQQIHHHHHH", ET_EXEC, EM_X86_64, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", PT_LOAD, RX, 0, BASE, BASE, size, size, 0x1000)
    return header + segment + text
