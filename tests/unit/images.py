# SPDX-License-Identifier: MIT
"""Minimal kernel images, made of the fields that Documentation/arch/x86/boot.rst and the PE format define."""

from __future__ import annotations

from struct import pack, pack_into

BANNER = "6.1.0-50-amd64 (builder@example) #1 SMP PREEMPT_DYNAMIC (2026-07-02)"
SETUP_SECTS = 15
SETUP_SIZE = (SETUP_SECTS + 1) * 512
CODE_SIZE = 4096


def bzimage(
    banner: str = BANNER,
    *,
    protocol: int = 0x020F,
    cmdline_size: int = 2047,
    xloadflags: int = 0x7F,
    certificate: int = 0,
) -> bytes:
    """A bzImage without an EFI stub, or with one and `certificate` bytes of signature behind it."""
    image = bytearray(SETUP_SIZE + CODE_SIZE)
    pack_into("<B", image, 0x1F1, SETUP_SECTS)
    pack_into("<I", image, 0x1F4, CODE_SIZE // 16)
    pack_into("<H", image, 0x1FE, 0xAA55)
    image[0x202:0x206] = b"HdrS"
    pack_into("<H", image, 0x206, protocol)
    pack_into("<H", image, 0x20E, 0x1000)
    pack_into("<BBH", image, 0x234, 1, 21, xloadflags)
    pack_into("<I", image, 0x238, cmdline_size)
    pack_into("<II", image, 0x248, 0x100, CODE_SIZE - 0x200)
    image[0x1200 : 0x1200 + len(banner) + 1] = banner.encode() + b"\0"
    if certificate:
        _put_pe(image, [(b".text", SETUP_SIZE, CODE_SIZE)], (len(image), certificate))
    return bytes(image) + bytes(certificate)


def uki(*, uname: str = "6.12.9-gentoo-dist", size: int = 4096) -> bytes:
    """A PE file with the sections of a unified kernel image."""
    image = bytearray(1024 + size)
    text = uname.encode() + b"\n"
    image[512 : 512 + len(text)] = text
    _put_pe(image, [(b".uname", 512, len(text)), (b".linux", 1024, size)], (0, 0))
    return bytes(image)


def _put_pe(image: bytearray, sections: list[tuple[bytes, int, int]], certificate: tuple[int, int]) -> None:
    at = 0x40
    image[:2] = b"MZ"
    pack_into("<I", image, 0x3C, at)
    optional_size = 112 + 6 * 8
    header = b"PE\0\0" + pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, optional_size, 0x206)
    optional = bytearray(optional_size)
    pack_into("<H", optional, 0, 0x20B)
    pack_into("<I", optional, 108, 6)
    pack_into("<II", optional, 112 + 4 * 8, *certificate)
    table = b"".join(pack("<8sIIII16x", name, size, offset, size, offset) for name, offset, size in sections)
    whole = header + bytes(optional) + table
    image[at : at + len(whole)] = whole
