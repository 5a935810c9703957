# SPDX-License-Identifier: MIT
"""What a menu entry leaves in memory for GRUB to start: a Linux kernel, or something that kexec cannot take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

MEMORY_TEST = "it is a memory test, not Linux"
NOTHING = "it starts nothing"


@dataclass(frozen=True, slots=True)
class File:
    device: str
    path: str


@dataclass(slots=True)
class Loaded:
    kernel: File | None = None
    arguments: tuple[str, ...] = ()
    initrds: tuple[File, ...] = ()
    devicetree: File | None = None
    other: str = ""  # why this is no Linux kernel; a sentence
    doubts: list[str] = field(default_factory=list)


def command_line(arguments: Sequence[str]) -> str:
    """The arguments of `linux` joined as GRUB joins them.

    One with a blank is put in double quotes as a whole, and each quote and backslash gets a backslash in front, though
    the kernel knows of no such escape: what it would be given by GRUB it is given by us.
    """
    return " ".join(_quoted(argument) for argument in arguments)


def _quoted(argument: str) -> str:
    escaped = re.sub(r"[\\'\"]", r"\\\g<0>", argument)
    return f'"{escaped}"' if " " in argument else escaped
