# SPDX-License-Identifier: MIT
"""Which modules the initrds have, by the names in their archives: unpacked until all that are wanted have been seen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing

from kexecd.errors import BadImage
from kexecd.kernel import cpio
from kexecd.kernel.compression import Compression, Damaged
from kexecd.kernel.decompress import Budget, NoHelper, OutOfTime, Unpacking
from kexecd.kernel.initrd import InitrdKind, inspect
from kexecd.model import OpenFile

MODULE = re.compile(r"(?:.*/)?([^/]+)\.ko(?:\.[a-z0-9]+)?")
PACKED = ("squashfs-root.img", "squash-root.img", "erofs-root.img", ".squashfs", ".sqfs", ".erofs")
"""A filesystem image inside of an initrd, as dracut's module squash makes one: what is in it cannot be told."""

CPU, WALL = 0.6, 5.0  # seconds for a look into the initrds


def modules_in(initrds: Sequence[OpenFile], wanted: frozenset[str]) -> frozenset[str] | None:
    """Which of these modules are there, called as the kernel calls them; None where that cannot be told."""
    budget, found = Budget(CPU, WALL), set[str]()
    try:
        for file in initrds:
            for name in _names(file, budget):
                if name.endswith(PACKED):
                    return None
                if match := MODULE.fullmatch(name):
                    found.add(match[1].replace("-", "_"))
                if wanted <= found:
                    return wanted
    except (BadImage, Damaged, NoHelper, OutOfTime, OSError):
        return None
    return wanted & found


def _names(file: OpenFile, budget: Budget) -> Iterator[str]:
    for part in inspect(file.fd, file.path).parts:
        end = part.offset + part.size if part.size else file.size
        if part.kind is InitrdKind.CPIO:
            yield from (member.name for member in cpio.members(cpio.FileSource(file.fd, part.offset, end)))
            continue
        with closing(Unpacking(file.fd, Compression(part.kind.value), part.offset, end, budget).pieces()) as pieces:
            source = cpio.StreamSource(pieces)
            while source.more():
                yield from (member.name for member in cpio.members(source))
