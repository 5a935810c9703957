# SPDX-License-Identifier: MIT
"""A command that is called, and the ways out of what is run."""

from __future__ import annotations

from dataclasses import dataclass

from kexecd.discover.grub.lexer import At, Word
from kexecd.discover.grub.menu import Menu
from kexecd.discover.grub.syntax import Block


@dataclass(frozen=True, slots=True)
class Call:
    """A command and its arguments."""

    name: str
    arguments: list[str]
    words: tuple[Word, ...]
    block: Block | None
    at: At


class Return(Exception):
    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


class Leave(Exception):
    """`break` or `continue`."""

    def __init__(self, loops: int, *, again: bool) -> None:
        super().__init__()
        self.loops, self.again = loops, again


class Shown(Exception):
    """Another file's menu took the place of the one that was being made."""

    def __init__(self, menu: Menu) -> None:
        super().__init__()
        self.menu = menu
