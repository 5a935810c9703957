# SPDX-License-Identifier: MIT
"""Several initrds as one file: the kernel takes one, and unpacks any number of archives from it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from kexecd.model import OpenFile

ALIGNMENT = 4  # bytes, where each archive begins (Documentation/driver-api/early-userspace/buffer-format.rst)


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
