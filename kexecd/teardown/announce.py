# SPDX-License-Identifier: MIT
"""Tell the people at the terminals, once, in one sentence, without waiting for any of them."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from kexecd.model import Context, Running


@dataclass(frozen=True, slots=True)
class Announce:
    """Write to the terminal of everyone who is logged in. `terminals` are device paths ("/dev/pts/0")."""

    sentence: str
    terminals: tuple[str, ...] = ()
    name: str = "announce"

    def describe(self) -> str:
        return f"tell {len(self.terminals)} terminals: {self.sentence}"

    def run(self, context: Context) -> Running:
        for terminal in self.terminals:
            with contextlib.suppress(OSError):  # somebody who has just left
                _write(terminal, f"\r\n{self.sentence}\r\n".encode())
        yield from ()

    def undo(self) -> None:
        """Nothing: what was read cannot be unread; whoever cancels says so."""


def _write(terminal: str, data: bytes) -> None:
    # O_NONBLOCK: a terminal held with ^S, or a modem nobody answers, must not hold the machine.
    fd = os.open(terminal, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if os.isatty(fd):
            os.write(fd, data)
    finally:
        os.close(fd)
