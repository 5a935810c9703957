# SPDX-License-Identifier: MIT
"""Kernel images, by their headers: what they are, whether they are whole. Only headers are ever read.

A file that was cut short, by a full /boot or by a power failure, is found here and not by a machine that does not come
back. Formats: Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header"), Documentation/arch/arm64/booting.rst,
Documentation/arch/riscv/boot-image-header.rst, elf(5), and of the EFI zboot image
drivers/firmware/efi/libstub/zboot-header.S. What is wrapped is taken out by kexecd.kernel.unwrap.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from struct import unpack_from

from kexecd.errors import BadImage
from kexecd.kernel.compression import compression
from kexecd.kernel.pe import Pe, read_pe

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

ZBOOT_PAYLOAD = 8  # offset and length
EFI_LINUX = b"\xcd\x23\x82\x81"  # LINUX_PE_MAGIC in include/linux/pe.h

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
    IMAGE = "Image"  # arm64, riscv, loongarch
    ELF = "ELF"
    UKI = "unified kernel image"
    ZBOOT = "EFI zboot image"
    GZIP = "gzip"  # from here on: a kernel that is compressed as a file
    BZIP2 = "bzip2"
    LZMA = "lzma"
    XZ = "xz"
    LZO = "lzo"
    LZ4 = "lz4"
    ZSTD = "zstd"

    @property
    def is_wrapped(self) -> bool:
        """Whether the kernel proper has to be taken out of it before kexec_file_load(2) sees it."""
        return self not in (ImageKind.BZIMAGE, ImageKind.IMAGE, ImageKind.ELF)


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


def _unreadable(what: str, error: OSError) -> BadImage:
    return BadImage(what, (error.strerror or str(error)).lower(), errno=error.errno or 0)


def _identify(fd: int, head: bytes) -> KernelImage | None:
    """The image with what its headers tell, or None for no format that we know. Needs nothing of the file but `head`
    and, by pread, the headers and strings that these point to."""
    efi = read_pe(fd, head)  # None: old kernels have no EFI stub
    signed, needs = (efi.signed, efi.needs) if efi else (False, 0)
    if len(head) >= PAYLOAD + 8 and head[MAGIC : MAGIC + 4] == b"HdrS":
        return _bzimage(fd, head, signed=signed, needs=needs)
    if head[56:60] == b"ARM\x64":
        return KernelImage(kind=ImageKind.IMAGE, arch="aarch64", signed=signed, needs=needs)
    if head[56:60] == b"RSC\x05":
        return KernelImage(kind=ImageKind.IMAGE, arch="riscv64", signed=signed, needs=needs)
    if head.startswith(b"\x7fELF"):
        return _elf(head)
    if efi and (linux := efi.section(b".linux")):
        return _uki(fd, efi) if linux.size else None
    if efi and head[4:8] == b"zimg":
        offset, size = unpack_from("<II", head, ZBOOT_PAYLOAD)
        return KernelImage(kind=ImageKind.ZBOOT, arch=efi.arch, signed=signed, needs=max(needs, offset + size))
    if efi and efi.arch == "loongarch64" and head[56:60] == EFI_LINUX:
        return KernelImage(kind=ImageKind.IMAGE, arch=efi.arch, signed=signed, needs=needs)
    packed = compression(head)
    return KernelImage(kind=ImageKind(packed.value)) if packed else None


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


def _uki(fd: int, efi: Pe) -> KernelImage:
    """https://uapi-group.org/specifications/specs/unified_kernel_image/: `.uname` is what `uname -r` will say."""
    uname = efi.section(b".uname")
    version = _string(fd, uname.offset, min(uname.size, 128)).strip() if uname else ""
    return KernelImage(kind=ImageKind.UKI, arch=efi.arch, version=version, signed=efi.signed, needs=efi.needs)


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


def _string(fd: int, offset: int, most: int) -> str:
    """A string in the file, up to its NUL; empty when it is not printable ASCII."""
    text = os.pread(fd, most, offset).partition(b"\0")[0].decode("ascii", "replace").rstrip("\n")
    return text if text.isascii() and text.isprintable() else ""


def _beginning(head: bytes) -> str:
    return f"begins with {head[:8].hex(' ')}" if head.strip(b"\0") else "begins with zeros"
