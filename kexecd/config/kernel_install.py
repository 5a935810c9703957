# SPDX-License-Identifier: MIT
"""The command line that the administrator has written down for every kernel: kernel-install(8), FILES.

The first of the two files that exists counts, even an empty one. Blanks and ends of lines part the parameters, also
inside quotes; lines that begin with # are left out. $KERNEL_INSTALL_CONF_ROOT is not looked at.
"""

from __future__ import annotations

from typing import NamedTuple

from kexecd.errors import BadConfig
from kexecd.kernel.files import read_text

FILES = ("/etc/kernel/cmdline", "/usr/lib/kernel/cmdline")


class WrittenDown(NamedTuple):
    cmdline: str
    file: str


def read_cmdline(root: str = "/") -> WrittenDown | None:
    """None where there is neither file. Raises BadConfig when one is there and cannot be read."""
    for path in FILES:
        try:
            text = read_text(path, root=root)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise BadConfig(f"cannot read {path}", why, errno=error.errno or 0) from error
        if text is not None:
            lines = [line for line in text.splitlines() if not line.startswith("#")]
            return WrittenDown(" ".join(" ".join(lines).split()), path)
    return None
