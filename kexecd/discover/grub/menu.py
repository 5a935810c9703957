# SPDX-License-Identifier: MIT
"""GRUB's menu, and which of its entries boots when nobody touches a key.

Upstream's GRUB (2.00 to 2.12; Debian, Ubuntu, Arch, Gentoo, openSUSE) takes `default` up to the first `>` as a number
if it begins with one, counting what is at the top of the menu from 0, submenus too; only else as an id or a title.
Red Hat's takes an id first, then a title, then a number with nothing behind it. What matches nothing, and a number that
is too large, is entry 0 for both. A submenu shows a menu of its own, whose default is what stands behind the `>`;
without that it is its first entry with upstream's, and with Red Hat's once more the same `default`. `>>` in an id or a
title is a `>`.

Seen with grub-emu 2.06 of Debian 12, but for Red Hat's, which is from their patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from kexecd.discover.grub.conditions import number
from kexecd.discover.grub.lexer import At
from kexecd.discover.grub.syntax import Block
from kexecd.discover.grub.variables import BLANKS, Variables
from kexecd.model import BootEntry


class Dialect(Enum):
    UPSTREAM = 0
    RED_HAT = 1


@dataclass(frozen=True, slots=True)
class Item:
    """What stands in the menu: an entry, a submenu, or an entry of the Boot Loader Specification."""

    id: str
    title: str
    parameters: tuple[str, ...] = ()  # $1, $2, ... in the body; the first is the title
    body: Block = ()
    submenu: bool = False
    restricted: bool = False  # asks for a password, where there are any
    at: At | None = None
    entry: BootEntry | None = None  # what `blscfg` put there


@dataclass(slots=True)
class Menu:
    """The items of one level, and what the configuration left behind in making them."""

    variables: Variables
    file: str  # of the configuration that makes it
    items: list[Item] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)  # what was not understood: anything may be different


def default_item(items: Sequence[Item], default: str, dialect: Dialect) -> tuple[int, bool]:
    """The index of the item that boots, and whether `default` names it; else it is 0, as nothing better is known."""
    index = _red_hat(items, default) if dialect is Dialect.RED_HAT else _upstream(items, default)
    return (index, True) if index is not None and 0 <= index < len(items) else (0, False)


def behind(default: str) -> str:
    """What stands behind the first `>` that is not doubled: the default of the submenu; empty if there is none."""
    _, _, tail = _cut(default)
    return tail


def path_id(ids: Sequence[str]) -> str:
    """The path of ids as GRUB's `chosen` and grub-reboot(8) have it."""
    return ">".join(name.replace(">", ">>") for name in ids)


def _cut(default: str) -> tuple[str, str, str]:
    at = 0
    while (at := default.find(">", at)) >= 0:
        if default.startswith(">>", at):
            at += 2
            continue
        return default[:at], ">", default[at + 1 :]
    return default, "", ""


def _named(default: str) -> str:
    return _cut(default)[0].replace(">>", ">")


def _upstream(items: Sequence[Item], default: str) -> int | None:
    if default.lstrip(" \t")[:1].isdigit():
        return number(default)
    name = _named(default)
    return next((index for index, item in enumerate(items) if name in (item.title, item.id)), None)


def _red_hat(items: Sequence[Item], default: str) -> int | None:
    # An id is compared with the first word only, and must be all there is.
    if not BLANKS.search(default):
        name = _named(default)
        for index, item in enumerate(items):
            if item.id == name:
                return index
    name = _named(default)
    for index, item in enumerate(items):
        if item.title == name:
            return index
    return int(default) if default.isascii() and default.isdigit() and len(default) < 10 else None
