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
    """A PE file with the sections of a unified kernel image, without anything that would boot."""
    return pe(uname=uname.encode() + b"\n", linux=bytes(size))


def pe(**sections: bytes) -> bytes:
    """A PE file with these sections, in this order, each padded to 512 bytes as linkers do it; `profile2` is a second
    section of the name `.profile`."""
    image, table = bytearray(2048), []
    for name, content in sections.items():
        table.append((b"." + name.rstrip("0123456789").encode(), len(image), len(content)))
        image += content + bytes(-len(content) % 512)
    _put_pe(image, table, (0, 0), alignment=512)
    return bytes(image)


def zboot(payload: bytes, *, kind: bytes = b"gzip", machine: int = 0xAA64) -> bytes:
    """drivers/firmware/efi/libstub/zboot-header.S: a PE file that says where its payload is."""
    image = bytearray(1024)
    _put_pe(image, [(b".text", 1024, len(payload))], (0, 0), machine)
    image[4:8] = b"zimg"
    pack_into("<II", image, 8, 1024, len(payload))
    image[24 : 24 + len(kind)] = kind
    image[56:60] = b"\xcd\x23\x82\x81"
    return bytes(image) + payload


def efi_image(machine: int) -> bytes:
    """A kernel that is a PE file as it is."""
    image = bytearray(2048)
    _put_pe(image, [(b".text", 1024, 1024)], (0, 0), machine)
    image[56:60] = b"\xcd\x23\x82\x81"
    return bytes(image)


def arm64_image(size: int = 4096) -> bytes:
    """Documentation/arch/arm64/booting.rst."""
    image = bytearray(size)
    image[56:60] = b"ARM\x64"
    return bytes(image)


def _put_pe(
    image: bytearray,
    sections: list[tuple[bytes, int, int]],
    certificate: tuple[int, int],
    machine: int = 0x8664,
    alignment: int = 1,
) -> None:
    at = 0x40
    image[:2] = b"MZ"
    pack_into("<I", image, 0x3C, at)
    optional_size = 112 + 6 * 8
    header = b"PE\0\0" + pack("<HHIIIHH", machine, len(sections), 0, 0, 0, optional_size, 0x206)
    optional = bytearray(optional_size)
    pack_into("<H", optional, 0, 0x20B)
    pack_into("<I", optional, 108, 6)
    pack_into("<II", optional, 112 + 4 * 8, *certificate)
    stored = [(name, size, offset, size + -size % alignment) for name, offset, size in sections]
    table = b"".join(pack("<8sIIII16x", name, size, at, room, at) for name, size, at, room in stored)
    whole = header + bytes(optional) + table
    image[at : at + len(whole)] = whole
