# SPDX-License-Identifier: MIT
"""The section table of a PE file: what lies where in an EFI executable.

Format: https://learn.microsoft.com/windows/win32/debug/pe-format. Read are the COFF header, of the optional header the
certificate table's place, and the section headers; nothing of the sections themselves.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from struct import unpack_from

HEADER_AT = 0x3C
HEADER_LIMIT = 1 << 15  # bytes; a section header has 40 of them
MACHINES = {0x14C: "i386", 0x1C2: "arm", 0x8664: "x86_64", 0xAA64: "aarch64", 0x5064: "riscv64", 0x6264: "loongarch64"}
DIRECTORIES = {0x10B: 96, 0x20B: 112}  # where the data directories begin in the optional header of PE32, PE32+
CERTIFICATES = 4  # which of them; its address is an offset in the file
SECTION_SIZE = 40
PROFILE = b".profile"  # https://uapi-group.org/specifications/specs/unified_kernel_image/: a profile begins behind it
MOST_SECTIONS = 512  # a device tree for each of many boards makes for many


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the file. size: bytes of content; what is stored may be longer, for alignment, and ends at `end`."""

    name: bytes
    offset: int
    size: int
    end: int


@dataclass(frozen=True, slots=True)
class Pe:
    """sections: in the order of the file's table, which means something where a name stands there twice."""

    arch: str  # as `uname -m` says it; empty when not known
    sections: tuple[Section, ...]
    certificates_end: int  # offset in the file; 0: it is not signed

    @property
    def signed(self) -> bool:
        return self.certificates_end > 0

    @property
    def needs(self) -> int:
        """Bytes that the file must have to be whole."""
        return max([self.certificates_end, *(section.end for section in self.sections)])

    @property
    def profiles(self) -> int:
        return sum(section.name == PROFILE for section in self.sections)

    def of_profile(self, number: int = 0) -> tuple[Section, ...]:
        """The sections of a profile, its own in front of those that all share (unified kernel images have profiles)."""
        marks = [index for index, section in enumerate(self.sections) if section.name == PROFILE]
        if not marks:
            return self.sections
        ends = [*marks[1:], len(self.sections)]
        return self.sections[marks[number] + 1 : ends[number]] + self.sections[: marks[0]]

    def section(self, name: bytes) -> Section | None:
        """The one of that name in the first profile."""
        return next((section for section in self.of_profile() if section.name == name), None)


def read_pe(fd: int, head: bytes) -> Pe | None:
    """The headers, or None where there are none that make sense. Raises OSError.

    head: how the file begins, 64 bytes or more.
    """
    if len(head) < HEADER_AT + 4 or not head.startswith(b"MZ"):
        return None
    (at,) = unpack_from("<I", head, HEADER_AT)
    header = os.pread(fd, HEADER_LIMIT, at)
    if len(header) < 26 or not header.startswith(b"PE\0\0"):
        return None
    machine, count = unpack_from("<HH", header, 4)
    optional_size, _, magic = unpack_from("<HHH", header, 20)
    directories = 24 + DIRECTORIES.get(magic, 0)
    table = 24 + optional_size
    if magic not in DIRECTORIES or count > MOST_SECTIONS or table < directories:
        return None
    if len(header) < table + count * SECTION_SIZE:
        return None
    sections = (_section(header, table + index * SECTION_SIZE) for index in range(count))
    return Pe(MACHINES.get(machine, ""), tuple(sections), _certificates_end(header, directories, table))


def _certificates_end(header: bytes, directories: int, table: int) -> int:
    (count,) = unpack_from("<I", header, directories - 4)
    entry = directories + CERTIFICATES * 8
    if count <= CERTIFICATES or entry + 8 > table:
        return 0
    offset, size = unpack_from("<II", header, entry)
    return offset + size if size else 0


def _section(header: bytes, at: int) -> Section:
    virtual, _, stored, offset = unpack_from("<IIII", header, at + 8)
    name = header[at : at + 8].partition(b"\0")[0]
    if not stored:  # there is nothing of it in the file
        return Section(name, 0, 0, 0)
    return Section(name, offset, min(virtual, stored) if virtual else stored, offset + stored)
