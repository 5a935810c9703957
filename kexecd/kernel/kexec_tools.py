# SPDX-License-Identifier: MIT
"""kexec(8) from kexec-tools, for what kexec_file_load(2) cannot serve: it knows more image formats.

It is handed the files that are open already, as /proc/self/fd/N: what was checked is what is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

CANDIDATES = ("/usr/sbin/kexec", "/sbin/kexec")
PATIENCE = 60.0  # seconds for one load; hashing a large initrd without SIMD takes some

# What kexec prints below "kexec_load failed: ...", and what says nothing to anybody.
_DUMP = ("entry ", "nr_segments", "segment[")


class ToolFailed(Exception):
    """kexec-tools did not load the image; the text says why.

    killed: it was stopped while at work, so nobody knows whether its system call came through.
    """

    def __init__(self, why: str, *, killed: bool = False) -> None:
        super().__init__(why)
        self.killed = killed


def find(candidates: Sequence[str] = CANDIDATES) -> str:
    """The first kexec that can be executed; raises ToolFailed if there is none. $PATH has no say in what root runs."""
    for path in candidates:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise ToolFailed("it is not installed, there is no " + " and no ".join(candidates))


def load(
    tool: str,
    kernel_fd: int,
    initrd_fd: int | None,
    cmdline: bytes,
    options: Sequence[str] = (),
    *,
    patience: float = PATIENCE,
) -> None:
    """Load by kexec_load(2), which is what `-c` insists on; raises ToolFailed.

    options: further ones, in front of ours; the last one counts for kexec, so none of them can take our place.
    """
    from kexecd.kernel import spawn  # late: subprocess costs as much as all the rest, and is hardly ever needed here

    command = [tool, *options, "-c", "-l", f"/proc/self/fd/{kernel_fd}"]
    if initrd_fd is not None:
        command.append(f"--initrd=/proc/self/fd/{initrd_fd}")
    command.append("--command-line=" + os.fsdecode(cmdline))
    try:
        files = [fd for fd in (kernel_fd, initrd_fd) if fd is not None]
        finished = spawn.run(command, seconds=patience, pass_fds=files)
    except OSError as error:
        raise ToolFailed(f"{tool} cannot be started: {os.strerror(error.errno or 0).lower()}") from error
    if finished.exit_code:
        killed = finished.exit_code < 0
        ended = f"signal {-finished.exit_code}" if killed else f"exit status {finished.exit_code}"
        raise ToolFailed(last_words(finished.errors) or f"{tool} ended with {ended} and said nothing", killed=killed)


def last_words(stderr: str) -> str:
    """The last line that says something, without control characters."""
    lines = (line.strip() for line in stderr.splitlines())
    telling = [line for line in lines if line and not line.startswith(_DUMP)]
    return "".join(character for character in telling[-1] if character.isprintable()) if telling else ""
