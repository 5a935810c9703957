# SPDX-License-Identifier: MIT
"""What a caller's message says (kexecd.cli.resident)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from kexecd import __version__
from kexecd.cli.resident import ENVIRONMENT
from kexecd.daemon.child import Coding

FDS = 4
"""The streams, and the working directory."""


@dataclass(frozen=True, slots=True)
class Request:
    """fds: the caller's streams and its working directory, open here."""

    words: tuple[str, ...]
    environment: dict[str, str]
    coding: Coding
    fds: tuple[int, ...]
    pid: int

    def take_place(self) -> None:
        """Make this process speak and stand where the caller does."""
        for number, fd in enumerate(self.fds[:3]):
            os.dup2(fd, number)
        os.fchdir(self.fds[3])


def parse(message: bytes, fds: Sequence[int], pid: int) -> Request | None:
    """What a message says; None for one of another version of kexecctl, or of somebody else."""
    parts = [os.fsdecode(part) for part in message.split(b"\0")[:-1]]
    first = 3 + len(ENVIRONMENT)
    if len(parts) <= first or parts[0] != __version__ or len(fds) != FDS:
        return None
    told = {name: text for name, text in zip(ENVIRONMENT, parts[3:first], strict=True) if text}
    return Request(tuple(parts[first:]), told, Coding(parts[1], parts[2]), tuple(fds), pid)
