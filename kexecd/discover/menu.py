# SPDX-License-Identifier: MIT
"""What entries of both types of the Boot Loader Specification share: where they lie, how they count boots, their order.

https://uapi-group.org/specifications/specs/boot_loader_specification/ 1. Names are compared with their suffix, which is
where systemd-boot leaves it: arch.conf is before arch-lts.conf.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any

from kexecd.discover.version import compare
from kexecd.kernel.files import join_root
from kexecd.model import BootEntry

PARTITIONS = ("/efi", "/boot/efi", "/boot")
"""Where the EFI system partition and the extended boot loader partition are mounted; entries of all are merged."""

MOST_FILES = 10_000  # that are looked at in one directory
OUT_OF_TRIES = "its boot counter has run out"

_COUNTERS = re.compile(r"(.+)\+([0-9]{1,9})(?:-([0-9]{1,9}))?")

newest_first: Any = cmp_to_key(lambda a, b: compare(b, a))


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An entry, and what its place in the menu depends on.

    name: of its file. left: tries left, where boots are counted. shown: systemd-boot has it in its menu; what it cannot
    start, or what is for another machine, it hides.
    """

    entry: BootEntry
    name: str
    sort_key: str = ""
    machine_id: str = ""
    version: str = ""  # to be sorted by; free text
    left: int | None = None
    done: int = 0
    profile: int = 0
    shown: bool = True

    @property
    def bad(self) -> bool:
        return self.left == 0

    @property
    def place(self) -> Any:
        """For sorted()."""
        new_style = (self.sort_key, self.machine_id, newest_first(self.version))
        own = new_style if self.sort_key else ("", "", newest_first(""))
        base, _, suffix = self.name.rpartition(".")
        name = f"{split_counters(base)[0]}.{suffix}".lower()
        counters = (-self.left, self.done) if self.left is not None else (0, 0)
        return self.bad, not self.sort_key, *own, newest_first(name), self.profile, *counters


def partitions(root: str) -> list[str]:
    """The directories where a boot partition may be mounted, each once, under whatever names."""
    found: dict[tuple[int, int], str] = {}
    for place in PARTITIONS:
        try:
            status = os.stat(join_root(root, place))
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode):
            found.setdefault((status.st_dev, status.st_ino), place)
    return list(found.values())


def names(directory: str, suffix: str, root: str, problems: list[str]) -> list[str]:
    """The names in a directory that a boot loader looks at: not hidden, and not those of entries of its own making."""
    try:
        with os.scandir(join_root(root, directory)) as found:
            every = [item.name for item in itertools.islice(found, MOST_FILES)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.append(f"{directory} cannot be read: {(error.strerror or str(error)).lower()}")
        return []
    return sorted(n for n in every if n.lower().endswith(suffix) and not n.lower().startswith((".", "auto-")))


def split_counters(stem: str) -> tuple[str, int | None, int]:
    """A file's name, without its suffix: the name proper, how many tries are left, how many were done."""
    match = _COUNTERS.fullmatch(stem)
    return (match[1], int(match[2]), int(match[3] or 0)) if match else (stem, None, 0)


def key_values(text: str, separators: str = " \t", *, unquote: bool = True) -> Iterator[tuple[str, str]]:
    """The lines of a file as systemd-boot takes them apart: entries, loader.conf, and with `=` os-release."""
    for line in re.split(r"[\r\n]+", text.partition("\0")[0]):
        line = line.strip(" \t")
        at = next((at for at, char in enumerate(line) if char in separators), -1)
        value = line[at + 1 :].lstrip(separators)
        if at < 0 or not value or line.startswith("#"):
            continue
        if unquote and len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        yield line[:at], value


def printable(text: str) -> str:
    """A title that a terminal can show and that does nothing to it."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
