# SPDX-License-Identifier: MIT
"""Whether the kernel that is to come understands what this one hands over: told before the jump, from its image.

Each of the three formats carries a version, as a string that occurs once in a kernel (include/linux/kho/abi/): of the
handover itself, `kho-v4`, of live update, `luo-v5`, and of a memfd, `memfd-v2`. Seen with Linux 7.3.4:

- another handover: the new kernel says so and starts as if it came from the firmware;
- the same handover, another live update: it panics before it has a console, also if nobody has preserved anything, and
  also with liveupdate=off; only kho=off on its command line keeps it from looking;
- another memfd format: /dev/liveupdate answers EIO for as long as that kernel runs.

A kernel without live update, and one that was loaded by kexec_load(2), is handed nothing and starts as ever.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from struct import unpack_from

from kexecd.errors import BadImage, Refusal, Unsupported
from kexecd.kernel.compression import Compression, Damaged, compression, stream_end
from kexecd.kernel.decompress import Budget, NoHelper, OutOfTime, Unpacking
from kexecd.kernel.image import PAYLOAD, SETUP_SECTS, ImageKind, KernelImage, kernel_image
from kexecd.kernel.unwrap import unwrapped
from kexecd.liveupdate.carrier import Fate, Outlook
from kexecd.model import OpenFile

SECONDS = 30.0  # for unpacking a kernel
PIECE = 1 << 18
MARK = re.compile(rb"(?<![\w-])(kho|luo|memfd)-v(\d{1,4})\0")
LONGEST = 16  # bytes of a mark with what stands around it

INIT_SIZE = 0x260  # Documentation/arch/x86/boot.rst: memory that the kernel needs before it has read a memory map
DEBUGFS = "/sys/kernel/debug/kho/out"  # kernel/liveupdate/kexec_handover_debugfs.c

ON = frozenset(("on", "1", "y", "Y", "true"))
OFF = frozenset(("off", "0", "n", "N", "false"))


@dataclass(frozen=True, slots=True)
class Formats:
    """The versions that a kernel speaks; 0: it does not know that format."""

    kho: int = 0
    luo: int = 0
    memfd: int = 0

    def __str__(self) -> str:
        told = [f"{name}-v{version}" for name, version in self.pairs() if version]
        return ", ".join(told) or "no live update"

    def pairs(self) -> tuple[tuple[str, int], ...]:
        return ("kho", self.kho), ("luo", self.luo), ("memfd", self.memfd)


def formats(file: OpenFile) -> Formats:
    """What the kernel in a file speaks, whatever it is wrapped in. Raises BadImage, Unsupported and NoMemory."""
    image = kernel_image(file.fd, file.path)
    if not image.kind.is_wrapped:
        return _of_kernel(file, image)
    inner = unwrapped(file, image)
    try:
        return _of_kernel(inner.kernel, inner.image)
    finally:
        for opened in (inner.kernel, *inner.initrds):
            os.close(opened.fd)


def search(pieces: Iterable[bytes]) -> Formats:
    """The marks in a kernel that comes in pieces of any size."""
    found: dict[str, int] = {}
    before = b""
    for piece in pieces:
        text = before + piece
        for name, version in MARK.findall(text):
            found.setdefault(name.decode(), int(version))
        before = text[-LONGEST:]
    return Formats(found.get("kho", 0), found.get("luo", 0), found.get("memfd", 0))


def running(banner: str, *, debugfs: str = DEBUGFS, images: Iterable[OpenFile] = ()) -> Formats | None:
    """What the running kernel speaks; None if it cannot be told.

    banner: `uname -r` and `uname -v`. It is told by debugfs, where that is mounted: the blobs that the kernel will hand
    over stand there; else by the image that it was booted from, which is recognised by its banner.
    """
    told = search(_blobs(debugfs))
    if told.kho and told.luo:
        # The blobs name a memfd only while one is preserved; an image below knows better.
        known: Formats | None = told
    else:
        known = None
    for file in images:
        image = kernel_image(file.fd, file.path)
        if is_of(image.banner, banner):
            return formats(file)
    return known


def is_of(banner: str, running_banner: str) -> bool:
    """Whether an image's banner, "6.1.0 (who@where) #1 SMP ...", is that of the kernel that says "6.1.0 #1 SMP ..."."""
    release, _, version = running_banner.partition(" ")
    return bool(version) and banner.partition(" ")[0] == release and banner.endswith(f" {version}")


def judge(own: Formats | None, other: Formats, cmdline: str) -> Outlook:
    """What becomes of what this kernel, with its live update switched on, hands to the other one.

    own: of the running kernel, None if it cannot be told. cmdline: of the kernel to come.
    """
    both = f"the new kernel speaks {other}, the running one {own}"
    if _last(cmdline, "kho") in OFF:
        return Outlook(Fate.LOST, "kho=off is on the new kernel's command line")
    if not other.kho or not other.luo:
        return Outlook(Fate.LOST, "the new kernel was built without live update")
    if own is None:
        why = f"the new kernel speaks {other}, and what the running one speaks cannot be told"
        return Outlook(Fate.UNKNOWN, why)
    if own.kho != other.kho:
        return Outlook(Fate.LOST, f"{both}: it will ignore what it is handed")
    if own.luo != other.luo:
        return Outlook(Fate.PANIC, f"{both}: it would panic before it has a console")
    if own.memfd and own.memfd != other.memfd:
        return Outlook(Fate.LOST, f"{both}: it could not read what it is handed")
    return _switched_on(cmdline, f"both kernels speak {other}")


def _switched_on(cmdline: str, why: str) -> Outlook:
    if _last(cmdline, "kho") in OFF:
        return Outlook(Fate.LOST, "kho=off is on the new kernel's command line")
    if _last(cmdline, "liveupdate") not in ON:
        return Outlook(Fate.LOST, "liveupdate=on is not on the new kernel's command line, and it is off by default")
    return Outlook(Fate.CARRIED, why)


def refuse_panic(outlook: Outlook, path: str) -> None:
    """Raise Unsupported where the new kernel would not come up."""
    if outlook.fate is Fate.PANIC:
        raise Unsupported(
            f"cannot kexec into {path}",
            outlook.why,
            hint="restart with --firmware, or with `--append kho=off` for this one boot: it comes up without anything "
            "that memory carries, and what applications have handed over goes by file",
        )


def scratch_needed(areas: Iterable[int], kernel: int, initrd: int) -> str:
    """What `kho_scratch=` has to be for an image to have room, in words for the command line; empty if it has.

    areas: bytes of each scratch area, in which alone kexec_file_load(2) puts things while the handover is on; else it
    says EADDRNOTAVAIL. kernel: bytes that it takes when it starts (kernel_memory), initrd: of its file.
    """
    left = sorted(areas, reverse=True)
    small = 2 << 20  # purgatory, boot parameters, command line, the handover's own lists
    pieces = sorted((kernel, initrd, small), reverse=True)
    for piece in pieces:
        place = next((number for number, area in enumerate(left) if area >= piece), None)
        if place is None:
            mib = -(-sum(pieces) // (1 << 20))
            return f"kho_scratch=16M,{mib + -mib % 16}M,16M"
        left[place] -= piece
    return ""


def kernel_memory(file: OpenFile) -> int:
    """Bytes that a kernel takes where it is put: for a bzImage it says so, other kinds take what their file has."""
    head = os.pread(file.fd, INIT_SIZE + 4, 0)
    if len(head) == INIT_SIZE + 4 and head[0x202:0x206] == b"HdrS":
        return max(int(unpack_from("<I", head, INIT_SIZE)[0]), file.size)
    return file.size


def _of_kernel(file: OpenFile, image: KernelImage) -> Formats:
    what = f"cannot look into {file.path}"
    try:
        if image.kind is not ImageKind.BZIMAGE:
            return search(_plain(file.fd, 0, file.size))
        start, end, packed = _payload(file)
        if packed is None:
            return search(_plain(file.fd, start, end))
        if packed.tells_its_end:
            end = stream_end(file.fd, packed, start, end)
        unpacking = Unpacking(file.fd, packed, start, end, Budget(SECONDS, SECONDS))
        with closing(unpacking.pieces()) as pieces:
            return search(pieces)
    except OSError as error:
        raise BadImage(what, (error.strerror or str(error)).lower(), errno=error.errno or 0) from error
    except Damaged as damage:
        raise BadImage(what, str(damage), hint="install this kernel again") from damage
    except NoHelper as lacking:
        raise Unsupported(what, str(lacking), hint=f"install the package {lacking.package}") from lacking
    except OutOfTime:
        raise BadImage(what, f"unpacking it did not end within {SECONDS:g} s") from None


def _payload(file: OpenFile) -> tuple[int, int, Compression | None]:
    """Where the kernel proper lies in a bzImage, and how it is packed."""
    head = os.pread(file.fd, PAYLOAD + 8, 0)
    offset, length = unpack_from("<II", head, PAYLOAD)
    start = ((head[SETUP_SECTS] or 4) + 1) * 512 + offset
    return start, min(start + length, file.size), compression(os.pread(file.fd, 16, start))


def _plain(fd: int, start: int, end: int) -> Iterator[bytes]:
    while start < end and (piece := os.pread(fd, min(PIECE, end - start), start)):
        yield piece
        start += len(piece)


def _blobs(directory: str) -> Iterator[bytes]:
    """The files below it; as pieces, with something between them."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return
    for name in names:
        path = os.path.join(directory, name)
        if os.path.isdir(path):
            yield from _blobs(path)
            continue
        try:
            with open(path, "rb") as file:
                yield file.read(1 << 20) + b"\0"
        except OSError:
            continue


def _last(cmdline: str, key: str) -> str:
    """The value that counts of a word of a command line; empty if it is not there."""
    values = [word.partition("=")[2] for word in cmdline.split() if word.partition("=")[0] == key]
    return values[-1] if values else ""


def outlook_of(
    target: OpenFile,
    cmdline: str,
    banner: str,
    *,
    active: bool,
    images: Iterable[OpenFile] = (),
    debugfs: str = DEBUGFS,
) -> Outlook:
    """judge(), with everything that it takes looked up. What cannot be looked into is UNKNOWN, never a guess.

    active: live update is on in the running kernel (kexecd.liveupdate.luo.available). images: where the running kernel
    may have been booted from. A kernel of another build is unpacked for it, which takes up to some seconds.
    """
    if not active:
        return Outlook(Fate.LOST, "the running kernel has no live update, or it is not switched on")
    try:
        if is_of(kernel_image(target.fd, target.path).banner, banner):
            return _switched_on(cmdline, "it is the very kernel that runs")
        return judge(running(banner, debugfs=debugfs, images=images), formats(target), cmdline)
    except Refusal as refusal:
        return Outlook(Fate.UNKNOWN, f"{refusal.what}: {refusal.why}")
