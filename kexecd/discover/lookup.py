# SPDX-License-Identifier: MIT
"""Whether a file can be taken as a kernel or an initrd, and what its header says."""

from __future__ import annotations

import os
import stat

from kexecd.errors import Refusal
from kexecd.kernel.files import join_root, open_regular
from kexecd.kernel.image import kernel_image

KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
)


def problem(path: str, root: str = "/") -> str:
    """Why `path` cannot be taken as a kernel or an initrd, as a sentence; empty if nothing speaks against it.

    Looks at the name only: nothing is opened, so nothing can hang or be large.
    """
    try:
        status = os.stat(join_root(root, path))
    except FileNotFoundError:
        return f"there is no {path}"
    except (OSError, ValueError) as error:
        return f"{path} cannot be read: {(getattr(error, 'strerror', None) or str(error)).lower()}"
    if kind := next((kind for test, kind in KINDS if test(status.st_mode)), None):
        return f"{path} is {kind}"
    return "" if status.st_size else f"{path} is empty"


def version_inside(path: str, root: str = "/") -> str:
    """The version that a kernel image says in its own header; empty when it says none, or is none."""
    try:
        file = open_regular(path, "kernel", root=root)
    except (Refusal, ValueError):
        return ""
    try:
        return kernel_image(file.fd, path).version
    except Refusal:
        return ""
    finally:
        os.close(file.fd)
