# SPDX-License-Identifier: MIT
"""The kernel proper, taken out of what kexec_file_load(2) does not take: into sealed memory, so that what has been
checked is what is loaded.

Taken apart: unified kernel images (.linux, .ucode, .initrd and .cmdline of the first profile: see kexecd.kernel.uki),
EFI zboot images (drivers/firmware/efi/libstub/zboot-header.S), and kernels that are compressed as a file (arm64's
Image.gz). A bzImage unpacks itself, and an Image and an ELF file are the kernel already. A signature of the outer file
is not one of what is in it; where signatures are enforced the inner kernel needs its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import closing
from dataclasses import dataclass, replace
from struct import unpack_from

from kexecd.errors import BadImage, NoMemory, Unsupported
from kexecd.kernel import uki
from kexecd.kernel.compression import Compression, Cut, Damaged, compression, stream_end
from kexecd.kernel.decompress import Budget, NoHelper, OutOfTime, Unpacking, copy
from kexecd.kernel.files import stamp
from kexecd.kernel.image import HEAD, ZBOOT_PAYLOAD, ImageKind, KernelImage, kernel_image
from kexecd.kernel.pe import Section
from kexecd.model import OpenFile

MOST = 512 << 20  # bytes of anything that is taken out; no kernel is that large, and something broken may be
SECONDS = 60.0  # for unpacking a kernel; the slowest takes about one
DEEPEST = 3  # a unified kernel image of a zboot image of a compressed Image
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
ZBOOT_TYPE = 24  # a string


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """What was in a kernel file; the descriptors are the caller's."""

    kernel: OpenFile
    image: KernelImage  # of `kernel`, with the version that its wrapping knows
    initrds: tuple[OpenFile, ...] = ()
    cmdline: str | None = None  # None: it brings none


def unwrapped(file: OpenFile, image: KernelImage) -> Unwrapped:
    """The kernel in `file`, a wrapped `image`. `file` stays open; of what is made here, nothing does on failure.

    Raises BadImage, NoMemory, and Unsupported where a program that it takes is not installed.
    """
    found, made = Unwrapped(file, image), list[OpenFile]()
    try:
        for _ in range(DEEPEST):
            found = _once_more(found, made)
            if not found.image.kind.is_wrapped:
                break
        else:
            raise BadImage(f"cannot boot {file.path}", f"it is still wrapped after unwrapping it {DEEPEST} times")
        if stamp(os.fstat(file.fd)) != file.stamp:
            hint = "wait for the installation that writes it, and try again"
            raise BadImage(f"cannot boot {file.path}", "it changed while it was read", hint=hint)
    except BaseException:
        _close(made)
        raise
    _close([between for between in made if between not in (found.kernel, *found.initrds)])
    return found


def _once_more(outer: Unwrapped, made: list[OpenFile]) -> Unwrapped:
    what = f"cannot boot {outer.kernel.path}"
    try:
        inner = _unwrapped(outer.kernel, outer.image.kind, made)
    except OSError as error:
        refusal = NoMemory if error.errno in (errno.ENOMEM, errno.ENOSPC) else BadImage
        raise refusal(what, (error.strerror or str(error)).lower(), errno=error.errno or 0) from error
    except Damaged as damage:
        why = f"the file is truncated: {damage}" if isinstance(damage, Cut) else str(damage)
        hint = "install this kernel again, and look whether its filesystem is full"
        raise BadImage(what, why, hint=hint) from damage
    except NoHelper as lacking:
        raise Unsupported(what, str(lacking), hint=f"install the package {lacking.package}") from lacking
    except OutOfTime:
        raise BadImage(what, f"unpacking it did not end within {SECONDS:g} s") from None
    image = kernel_image(inner.kernel.fd, inner.kernel.path)
    return Unwrapped(
        inner.kernel,
        replace(image, version=image.version or outer.image.version, arch=image.arch or outer.image.arch),
        (*outer.initrds, *inner.initrds),
        inner.cmdline if outer.cmdline is None else outer.cmdline,
    )


@dataclass(frozen=True, slots=True)
class _Inner:
    kernel: OpenFile
    initrds: tuple[OpenFile, ...] = ()
    cmdline: str | None = None


def _unwrapped(file: OpenFile, kind: ImageKind, made: list[OpenFile]) -> _Inner:
    head = os.pread(file.fd, HEAD, 0)
    if kind is ImageKind.UKI:
        return _uki(file, made)
    if kind is ImageKind.ZBOOT:
        start, size = unpack_from("<II", head, ZBOOT_PAYLOAD)
        packed = compression(os.pread(file.fd, 16, start))
        if packed is None:
            name = head[ZBOOT_TYPE : ZBOOT_TYPE + 32].partition(b"\0")[0].decode("ascii", "replace")
            raise Damaged(f"how its payload is compressed is not known, it says {name!r}")
        return _Inner(_unpacked(file, packed, start, start + size, made))
    return _Inner(_unpacked(file, Compression(kind.value), 0, file.size, made))


def _uki(file: OpenFile, made: list[OpenFile]) -> _Inner:
    parts = uki.sections(file.fd, file.path)
    kernel = _section(file, parts.linux, made)
    initrds = tuple(_section(file, part, made) for part in parts.initrds)
    return _Inner(kernel, initrds, parts.cmdline)


def _section(file: OpenFile, section: Section, made: list[OpenFile]) -> OpenFile:
    if section.size > MOST:
        raise Damaged(f"its section {_name(section)} has more than {MOST >> 20} MiB")
    memory = os.memfd_create(_name(section), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        copy(file.fd, section.offset, section.offset + section.size, memory)
        made.append(_sealed(memory, f"{file.path} ({_name(section)})"))
    except BaseException:
        os.close(memory)
        raise
    return made[-1]


def _name(section: Section) -> str:
    return section.name.decode("ascii", "replace")


def _unpacked(file: OpenFile, kind: Compression, start: int, end: int, made: list[OpenFile]) -> OpenFile:
    budget = Budget(SECONDS, SECONDS)
    if kind.tells_its_end:  # and so whether it is whole, before it is unpacked
        end = stream_end(file.fd, kind, start, end)
    memory = os.memfd_create("unpacked", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        unpacking = Unpacking(file.fd, kind, start, end, budget)
        with open(memory, "wb", closefd=False) as out, closing(unpacking.pieces()) as pieces:
            for piece in pieces:
                if out.tell() + len(piece) > MOST:
                    raise Damaged(f"it unpacks to more than {MOST >> 20} MiB")
                out.write(piece)
        made.append(_sealed(memory, f"{file.path} (unpacked)"))
    except BaseException:
        os.close(memory)
        raise
    return made[-1]


def _sealed(memory: int, path: str) -> OpenFile:
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
    status = os.fstat(memory)
    return OpenFile(path, memory, status.st_size, stamp(status))


def _close(files: list[OpenFile]) -> None:
    for file in files:
        os.close(file.fd)
