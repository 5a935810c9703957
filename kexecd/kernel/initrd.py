# SPDX-License-Identifier: MIT
"""Initrds: what is in them, whether they are whole, and several of them as one.

The kernel takes one file and unpacks any number of archives from it, each compressed for itself or not at all, with
zeros between them (Documentation/driver-api/early-userspace/buffer-format.rst). What it reads before it unpacks
anything, CPU microcode and ACPI tables, comes first and uncompressed (Documentation/arch/x86/microcode.rst). Behind the
archives there may be a boot configuration (Documentation/admin-guide/bootconfig.rst).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum

from kexecd.errors import BadImage
from kexecd.kernel import cpio
from kexecd.kernel.compression import Compression, Cut, Damaged, compression, skippable_end, stream_end
from kexecd.kernel.decompress import Budget, NoHelper, OutOfTime, Unpacking
from kexecd.model import OpenFile

ALIGNMENT = 4  # bytes, where each archive begins
BOOTCONFIG = b"#BOOTCONFIG\n"  # include/linux/bootconfig.h
READ = 1 << 16

CPU_SECONDS, SECONDS = 3.0, 10.0  # for looking into one initrd; then it is loaded without

MODULE = re.compile(r"\.ko(\.\w+)?\Z")
MODULES = re.compile(r"(?:\./|/)?(?:usr/)?lib/modules/([^/]+)(/?)")
EARLY = re.compile(r"(?:\./|/)?(?:\.|early_cpio|kernel(?:/x86(?:/microcode(?:/.*)?)?|/firmware(?:/acpi(?:/.*)?)?)?)")


class InitrdKind(StrEnum):
    CPIO = "cpio"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    LZMA = "lzma"
    XZ = "xz"
    LZO = "lzo"
    LZ4 = "lz4"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class Part:
    kind: InitrdKind
    offset: int
    size: int  # 0: nothing but unpacking it would tell


@dataclass(frozen=True, slots=True, kw_only=True)
class InitrdContent:
    kind: InitrdKind  # how it begins
    parts: tuple[Part, ...]
    module_versions: tuple[str, ...] = ()
    modules: bool = False  # it holds kernel modules, wherever they lie: tiny-initramfs has them in its root
    complete: bool = False  # every name in it was seen
    early: bool = False  # it holds only what has to come first
    truncated: bool = False
    problem: str = ""  # why it cannot be used; a sentence
    remarks: tuple[str, ...] = ()


def inspect(
    fd: int, path: str, *, version: str = "", deep: bool = False, budget: Budget | None = None
) -> InitrdContent:
    """What is in the initrd behind `fd`; `path` is what messages call it.

    By headers, which is cheap; with `deep` also by unpacking what is compressed, until the modules of the kernel
    `version` have been seen (of any, where it is empty) or the budget is spent. gzip, bzip2, lzma and lzo do not tell
    their size: whether they are whole is only found by `deep`, which then unpacks all of it.
    Raises BadImage when it is not an initrd or cannot be read.
    """
    what = f"cannot use {path} as initrd"
    look = _Look(fd, version, deep, budget or Budget(CPU_SECONDS, SECONDS))
    try:
        end = _archives_end(fd, os.fstat(fd).st_size)
        head = os.pread(fd, 16, 0)
        kind = initrd_kind(head)
        if kind is None or end == 0:
            begins = f"begins with {head[:8].hex(' ')}" if head.strip(b"\0") else "begins with zeros"
            raise BadImage(what, f"it is not an initrd, it {begins}")
        look.through(end)
    except OSError as error:
        raise BadImage(what, (error.strerror or str(error)).lower(), errno=error.errno or 0) from error
    return InitrdContent(
        kind=kind,
        parts=tuple(look.parts),
        module_versions=tuple(look.versions),
        modules=look.modules or bool(look.versions),
        complete=look.complete,
        early=look.early and look.complete,
        truncated=look.truncated,
        problem=look.problem,
        remarks=tuple(look.remarks),
    )


def initrd_kind(head: bytes) -> InitrdKind | None:
    if head[:6] in cpio.MAGICS:
        return InitrdKind.CPIO
    packed = compression(head)
    return InitrdKind(packed.value) if packed else None


def foreign_modules(contents: Sequence[InitrdContent], version: str) -> str:
    """Why these initrds together are not those of the kernel `version`, as a sentence; empty if nothing says so."""
    versions = dict.fromkeys(found for content in contents for found in content.module_versions)
    if not version or not versions or version in versions or not all(content.complete for content in contents):
        return ""
    return f"it has the modules of {' and '.join(versions)}, and the kernel is {version}"


def in_order(initrds: Sequence[tuple[OpenFile, InitrdContent]]) -> tuple[OpenFile, ...]:
    """In the order that they were named in, but for what has to come first."""
    return tuple(file for file, _ in sorted(initrds, key=lambda pair: not pair[1].early))


@contextmanager
def joined(initrds: tuple[OpenFile, ...]) -> Iterator[int | None]:
    """A descriptor of all of them, in their order; of the one itself where it is one, None where there is none.

    Raises OSError, ESTALE when a file turned out shorter than it was.
    """
    if len(initrds) < 2:
        yield initrds[0].fd if initrds else None
        return
    memory = os.memfd_create("initrd", os.MFD_CLOEXEC)
    try:
        for file in initrds:
            copied = 0
            while copied < file.size:
                count = os.sendfile(memory, file.fd, copied, file.size - copied)
                if count == 0:
                    raise OSError(errno.ESTALE, "became shorter while it was read", file.path)
                copied += count
            os.write(memory, bytes(-file.size % ALIGNMENT))
        yield memory
    finally:
        os.close(memory)


class _Look:
    """One look into one initrd, and what it has seen so far."""

    def __init__(self, fd: int, version: str, deep: bool, budget: Budget) -> None:
        self.parts: list[Part] = []
        self.versions: dict[str, None] = {}
        self.modules = False
        self.complete = self.early = True
        self.truncated = False
        self.problem = ""
        self.remarks: list[str] = []
        self._fd, self._version, self._deep, self._budget = fd, version, deep, budget

    def through(self, end: int) -> None:
        at = 0
        while at < end and not self.problem:
            head = os.pread(self._fd, min(16, end - at), at)
            kind = initrd_kind(head)
            try:
                if kind is not None and (kind is not InitrdKind.CPIO or at % ALIGNMENT == 0):
                    after = self._part(kind, at, end)
                elif (after := skippable_end(self._fd, at, end)) == at:
                    self.remarks.append(f"its last {end - at} bytes are no archive, the kernel passes over them")
                    return
            except Cut as cut:
                self.truncated, self.problem = True, f"the file is truncated: {cut}"
                return
            except Damaged as damage:
                self.problem = str(damage)
                return
            except OutOfTime:
                self._give_up("looking into it takes too long, so nobody knows for which kernel it is")
                return
            if after is None:
                return
            at = _past_zeros(self._fd, after, end)

    def _part(self, kind: InitrdKind, at: int, end: int) -> int | None:
        """Where the archive ends that begins at `at`, None if that is not known."""
        if kind is InitrdKind.CPIO:
            source = cpio.FileSource(self._fd, at, end)
            for number, member in enumerate(cpio.members(source)):
                if number % 256 == 255:
                    self._budget.left()
                self._note(member)
            self.parts.append(Part(kind, at, source.position - at))
            return source.position
        self.early = False
        packed = Compression(kind.value)
        known = packed.tells_its_end
        after: int | None = stream_end(self._fd, packed, at, end) if known else None
        self.parts.append(Part(kind, at, (after or at) - at))
        if not self._deep:
            self.complete = False
            return after
        try:
            unpacking = Unpacking(self._fd, packed, at, end if after is None else after, self._budget)
            self._list(unpacking, until_found=known)
        except (NoHelper, OutOfTime) as error:
            late = "looking into it takes too long"
            self._give_up(f"nobody knows for which kernel it is: {late if isinstance(error, OutOfTime) else error}")
            return after
        if after is None and unpacking.end is not None:
            after = unpacking.end
            self.parts[-1] = Part(kind, at, after - at)
        return after

    def _list(self, unpacking: Unpacking, *, until_found: bool) -> None:
        with closing(unpacking.pieces()) as pieces:
            source = cpio.StreamSource(pieces)
            try:
                while source.more():
                    for member in cpio.members(source):
                        self._note(member)
                        if until_found and self.versions and (not self._version or self._version in self.versions):
                            self.complete = False
                            return
            except cpio.NotCpio:
                self._give_up("what is packed in it is no cpio archive")

    def _note(self, member: cpio.Member) -> None:
        self.early = self.early and EARLY.fullmatch(member.name) is not None
        self.modules = self.modules or MODULE.search(member.name) is not None
        found = MODULES.match(member.name)
        if found and (found[2] or stat.S_ISDIR(member.mode)):
            self.versions[found[1]] = None

    def _give_up(self, why: str) -> None:
        self.complete = False
        self.remarks.append(why)


def _archives_end(fd: int, size: int) -> int:
    """Where the archives end: at the boot configuration if there is one."""
    tail = os.pread(fd, len(BOOTCONFIG) + 8, max(size - len(BOOTCONFIG) - 8, 0))
    if not tail.endswith(BOOTCONFIG) or len(tail) < len(BOOTCONFIG) + 8:
        return size
    return max(size - len(tail) - int.from_bytes(tail[:4], "little"), 0)


def _past_zeros(fd: int, at: int, end: int) -> int:
    while at < end and (piece := os.pread(fd, min(READ, end - at), at)):
        rest = piece.lstrip(b"\0")
        at += len(piece) - len(rest)
        if rest:
            break
    return at
