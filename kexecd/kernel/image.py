# SPDX-License-Identifier: MIT
"""Kernel images and initrds, by their headers: what they are, whether they are whole. Only headers are ever read.

A file that was cut short, by a full /boot or by a power failure, is found here and not by a machine that does not come
back. Formats: Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header"), Documentation/arch/arm64/booting.rst,
Documentation/arch/riscv/boot-image-header.rst, the PE format of Microsoft, elf(5). Magic numbers of compressed files:
lib/decompress.c.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from struct import unpack_from

from kexecd.errors import BadImage

HEAD = 4096  # bytes; every header that we look at begins in these

# Documentation/arch/x86/boot.rst
SETUP_SECTS = 0x1F1
SYSSIZE = 0x1F4  # in units of 16 bytes
MAGIC = 0x202
PROTOCOL = 0x206
KERNEL_VERSION = 0x20E  # less 0x200
RELOCATABLE = 0x234
XLOADFLAGS = 0x236
CMDLINE_SIZE = 0x238
PAYLOAD = 0x248  # offset, from the protected-mode code on, and length
OLDEST_PROTOCOL = 0x0208  # the first that tells where the payload ends
XLF_KERNEL_64 = 1 << 0  # arch/x86/include/uapi/asm/bootparam.h

# PE: offsets from the COFF header on, and of its optional header
PE_AT = 0x3C
PE_MACHINES = {0x14C: "i386", 0x8664: "x86_64", 0xAA64: "aarch64", 0x5064: "riscv64", 0x6264: "loongarch64"}
PE_DIRECTORIES = {0x10B: 96, 0x20B: 112}  # PE32, PE32+
PE_CERTIFICATES = 4  # which of the data directories; its address is an offset in the file
PE_SECTION_SIZE = 40
PE_MOST_SECTIONS = 96

ELF_MACHINES = {  # include/uapi/linux/elf-em.h
    3: "i386",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}


class ImageKind(StrEnum):
    BZIMAGE = "bzImage"
    IMAGE = "Image"  # arm64, riscv
    ELF = "ELF"
    UKI = "unified kernel image"
    ZBOOT = "EFI zboot image"
    GZIP = "gzip"
    XZ = "xz"
    ZSTD = "zstd"

    @property
    def is_wrapped(self) -> bool:
        """Whether the kernel proper has to be taken out of it before kexec_file_load(2) sees it."""
        return self not in (ImageKind.BZIMAGE, ImageKind.IMAGE, ImageKind.ELF)


class InitrdKind(StrEnum):
    CPIO = "cpio"  # also an uncompressed early one with microcode, whatever follows it
    GZIP = "gzip"
    BZIP2 = "bzip2"
    LZMA = "lzma"
    XZ = "xz"
    LZO = "lzo"
    LZ4 = "lz4"
    ZSTD = "zstd"


COMPRESSED_KERNELS = {b"\x1f\x8b": ImageKind.GZIP, b"\xfd7zXZ\0": ImageKind.XZ, b"\x28\xb5\x2f\xfd": ImageKind.ZSTD}

INITRDS = {  # init/initramfs.c for cpio (newc, and newc with checksums)
    b"070701": InitrdKind.CPIO,
    b"070702": InitrdKind.CPIO,
    b"\x1f\x8b": InitrdKind.GZIP,
    b"\x1f\x9e": InitrdKind.GZIP,
    b"BZh": InitrdKind.BZIP2,
    b"\x5d\0\0": InitrdKind.LZMA,
    b"\xfd7zXZ\0": InitrdKind.XZ,
    b"\x89LZO\0": InitrdKind.LZO,
    b"\x02\x21\x4c\x18": InitrdKind.LZ4,
    b"\x28\xb5\x2f\xfd": InitrdKind.ZSTD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelImage:
    kind: ImageKind
    arch: str = ""  # as `uname -m` says it; empty when not known
    version: str = ""  # as `uname -r` will say it; empty when not known
    banner: str = ""  # the whole version string: who built it, when
    signed: bool = False  # it carries a certificate table; says nothing about whose
    needs: int = 0  # bytes that the file must have to be whole; 0 when the format does not tell
    protocol: int = 0  # from here on: x86 bzImage only
    xloadflags: int = 0
    cmdline_size: int = 0  # most bytes of a command line, without the NUL
    relocatable: bool = False


@dataclass(frozen=True, slots=True)
class _Section:
    name: bytes
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Pe:
    arch: str
    sections: tuple[_Section, ...]
    certificate_end: int  # 0: not signed

    @property
    def signed(self) -> bool:
        return self.certificate_end > 0

    @property
    def needs(self) -> int:
        return max([self.certificate_end, *(section.offset + section.size for section in self.sections)])

    def section(self, name: bytes) -> _Section | None:
        return next((section for section in self.sections if section.name == name), None)


def kernel_image(fd: int, path: str) -> KernelImage:
    """What kernel image is behind `fd`; `path` is what messages call it.

    Raises BadImage when it is none, or when the file is shorter than its headers say.
    """
    what = f"cannot boot {path}"
    try:
        head = os.pread(fd, HEAD, 0)
        image = _identify(fd, head)
        size = os.fstat(fd).st_size
    except OSError as error:
        raise _unreadable(what, error) from error
    if image is None:
        raise BadImage(what, f"it is not a kernel image, it {_beginning(head)}")
    if image.kind is ImageKind.BZIMAGE and image.protocol < OLDEST_PROTOCOL:
        protocol = f"{image.protocol >> 8}.{image.protocol & 0xFF:02}"
        raise BadImage(what, f"its boot protocol {protocol} is too old to tell whether it is whole (2.08 is needed)")
    if size < image.needs:
        missing = image.needs - size
        raise BadImage(
            what,
            f"the file is truncated: {missing} bytes are missing, it has {size} of {image.needs}",
            hint="install this kernel again, and look whether its filesystem is full",
        )
    return image


def initrd_kind(fd: int, path: str) -> InitrdKind:
    """How the initrd behind `fd` begins. Raises BadImage when it is not an initrd."""
    try:
        head = os.pread(fd, 16, 0)
    except OSError as error:
        raise _unreadable(f"cannot use {path} as initrd", error) from error
    kind = next((kind for magic, kind in INITRDS.items() if head.startswith(magic)), None)
    if kind is None:
        raise BadImage(f"cannot use {path} as initrd", f"it is not an initrd, it {_beginning(head)}")
    return kind


def _unreadable(what: str, error: OSError) -> BadImage:
    return BadImage(what, (error.strerror or str(error)).lower(), errno=error.errno or 0)


def _identify(fd: int, head: bytes) -> KernelImage | None:
    """The image with what its headers tell, or None for no format that we know. Needs nothing of the file but `head`
    and, by pread, the headers and strings that these point to."""
    pe = _pe(fd, head)
    signed, needs = (pe.signed, pe.needs) if pe is not None else (False, 0)
    if len(head) >= PAYLOAD + 8 and head[MAGIC : MAGIC + 4] == b"HdrS":
        return _bzimage(fd, head, signed=signed, needs=needs)
    if head[56:60] == b"ARM\x64":
        return KernelImage(kind=ImageKind.IMAGE, arch="aarch64", signed=signed, needs=needs)
    if head[56:60] == b"RSC\x05":
        return KernelImage(kind=ImageKind.IMAGE, arch="riscv64", signed=signed, needs=needs)
    if head.startswith(b"\x7fELF"):
        return _elf(head)
    if pe is not None and (linux := pe.section(b".linux")):
        return _uki(fd, pe) if linux.size else None
    if pe is not None and head[4:8] == b"zimg":  # drivers/firmware/efi/libstub/zboot-header.S
        offset, size = unpack_from("<II", head, 8)
        return KernelImage(kind=ImageKind.ZBOOT, arch=pe.arch, signed=pe.signed, needs=max(pe.needs, offset + size))
    kind = next((kind for magic, kind in COMPRESSED_KERNELS.items() if head.startswith(magic)), None)
    return KernelImage(kind=kind) if kind is not None else None


def _bzimage(fd: int, head: bytes, *, signed: bool, needs: int) -> KernelImage:
    (protocol,) = unpack_from("<H", head, PROTOCOL)
    (syssize,) = unpack_from("<I", head, SYSSIZE)
    (xloadflags,) = unpack_from("<H", head, XLOADFLAGS)
    (cmdline_size,) = unpack_from("<I", head, CMDLINE_SIZE)
    payload_offset, payload_length = unpack_from("<II", head, PAYLOAD)
    setup = ((head[SETUP_SECTS] or 4) + 1) * 512  # the boot sector and the setup code
    (pointer,) = unpack_from("<H", head, KERNEL_VERSION)
    banner = _string(fd, pointer + 0x200, 512) if 0 < pointer < setup - 0x200 else ""
    return KernelImage(
        kind=ImageKind.BZIMAGE,
        arch="x86_64" if xloadflags & XLF_KERNEL_64 else "i386",
        version=banner.partition(" ")[0],
        banner=banner,
        signed=signed,
        needs=max(setup + syssize * 16, setup + payload_offset + payload_length, needs),
        protocol=protocol,
        xloadflags=xloadflags,
        cmdline_size=cmdline_size,
        relocatable=bool(head[RELOCATABLE]),
    )


def _uki(fd: int, pe: _Pe) -> KernelImage:
    """https://uapi-group.org/specifications/specs/unified_kernel_image/: `.uname` is what `uname -r` will say."""
    uname = pe.section(b".uname")
    version = _string(fd, uname.offset, min(uname.size, 128)).strip() if uname else ""
    return KernelImage(kind=ImageKind.UKI, arch=pe.arch, version=version, signed=pe.signed, needs=pe.needs)


def _elf(head: bytes) -> KernelImage | None:
    """elf(5). The section headers stand at the end of what the linker writes, so a cut loses them."""
    if len(head) < 64 or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    order = "<" if head[5] == 1 else ">"
    (machine,) = unpack_from(order + "H", head, 18)
    offset_at, entry_at, layout = (40, 58, "Q") if head[4] == 2 else (32, 46, "I")
    (offset,) = unpack_from(order + layout, head, offset_at)
    size, count = unpack_from(order + "HH", head, entry_at)
    return KernelImage(kind=ImageKind.ELF, arch=ELF_MACHINES.get(machine, ""), needs=offset + size * count)


def _pe(fd: int, head: bytes) -> _Pe | None:
    """The PE headers, or None where there are none that make sense: old kernels have no EFI stub."""
    if len(head) < 64 or not head.startswith(b"MZ"):
        return None
    (at,) = unpack_from("<I", head, PE_AT)
    header = os.pread(fd, HEAD, at)
    if len(header) < 26 or not header.startswith(b"PE\0\0"):
        return None
    machine, sections = unpack_from("<HH", header, 4)
    optional_size, _, magic = unpack_from("<HHH", header, 20)
    directories = 24 + PE_DIRECTORIES.get(magic, 0)
    table = 24 + optional_size
    if magic not in PE_DIRECTORIES or sections > PE_MOST_SECTIONS:
        return None
    if len(header) < table + sections * PE_SECTION_SIZE or table < directories:
        return None
    (count,) = unpack_from("<I", header, directories - 4)
    certificate_end = 0
    if count > PE_CERTIFICATES and directories + (PE_CERTIFICATES + 1) * 8 <= table:
        offset, size = unpack_from("<II", header, directories + PE_CERTIFICATES * 8)
        certificate_end = offset + size if size else 0
    return _Pe(
        PE_MACHINES.get(machine, ""),
        tuple(_section(header, table + index * PE_SECTION_SIZE) for index in range(sections)),
        certificate_end,
    )


def _section(header: bytes, at: int) -> _Section:
    size, offset = unpack_from("<II", header, at + 16)
    return _Section(header[at : at + 8].rstrip(b"\0"), offset if size else 0, size)


def _string(fd: int, offset: int, most: int) -> str:
    """A string in the file, up to its NUL; empty when it is not printable ASCII."""
    text = os.pread(fd, most, offset).partition(b"\0")[0].decode("ascii", "replace").rstrip("\n")
    return text if text.isascii() and text.isprintable() else ""


def _beginning(head: bytes) -> str:
    return f"begins with {head[:8].hex(' ')}" if head.strip(b"\0") else "begins with zeros"
