# SPDX-License-Identifier: MIT
"""systemd-boot: its menu, made of entries of both types, and which of them it boots next.

systemd-boot(7), loader.conf(5), https://systemd.io/BOOT_LOADER_INTERFACE for the EFI variables. Of loader.conf only
`default` and `preferred` are read. Only variables about the next boot count: after a kexec, what systemd-boot has said
about the boot that it did itself (LoaderEntrySelected) is old.
"""

from __future__ import annotations

import fnmatch
import os
import re
from dataclasses import dataclass

from kexecd.discover import bls, uki
from kexecd.discover.menu import Item, key_values, names, partitions, printable
from kexecd.kernel.files import join_root, read_text
from kexecd.model import Found, Source

FIRMWARE = "/sys/firmware"
EFIVARS = f"{FIRMWARE}/efi/efivars"
VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
VARIABLE_LIMIT = 1 << 14  # bytes
ATTRIBUTES = 4  # bytes in front of a variable's value; Documentation/filesystems/efivarfs.rst
PATTERN_LIMIT = 1024  # characters

SAVED = "@saved"
PREFERRED_SINCE = 260  # systemd; older ones do not know the setting


def find(root: str = "/", *, machine: str = "") -> Found | None:
    """What systemd-boot shows below `root`; None where there is neither an entry nor a loader.conf.

    Where it runs and they are not there, they are on a partition that is not mounted, and it cannot be told.

    machine: as `uname -m` says it. What systemd-boot leaves out of its menu, such as an entry whose kernel is missing,
    is found all the same, with its problem, but is never the next.
    """
    problems: list[str] = []
    items = [*bls.read(root, problems, machine=machine), *uki.read(root, problems, machine=machine)]
    items.sort(key=lambda item: item.place)
    place, settings = _loader_conf(root, problems)
    if not items and not place:
        unseen = "its entries are on no partition that is mounted"
        return Found(Source.BLS, reason=unseen, problems=tuple(problems)) if _says_it_runs(root) else None
    chooser = _Chooser(root, [item for item in items if item.shown], place, settings, problems)
    item, reason = chooser.next()
    return Found(Source.BLS, tuple(i.entry for i in items), item.entry.id if item else "", reason, tuple(problems))


def runs(root: str = "/") -> bool:
    """Whether systemd-boot is what the firmware starts.

    It says so itself in a variable; where there are no variables, as in a captured tree, its files have to do.
    """
    if variable("LoaderInfo", root, []):
        return _says_it_runs(root)
    if os.path.isdir(join_root(root, FIRMWARE)):
        try:
            if os.listdir(join_root(root, EFIVARS)):
                return False
        except OSError:
            if not os.path.isdir(join_root(root, f"{FIRMWARE}/efi")):
                return False  # started by a BIOS
    return any(_installed(partition, root) for partition in partitions(root))


def _says_it_runs(root: str) -> bool:
    return variable("LoaderInfo", root, []).startswith("systemd-boot")


def variable(name: str, root: str, problems: list[str]) -> str:
    """The text in one of the loader's EFI variables; empty where it is not set."""
    path = f"{EFIVARS}/{name}-{VENDOR}"
    try:
        # The bytes come back as they were: surrogates stand for those that are no UTF-8.
        content = read_text(path, root=root, limit=VARIABLE_LIMIT)
    except OSError as error:
        problems.append(f"{path} cannot be read: {(error.strerror or str(error)).lower()}")
        return ""
    data = (content or "").encode(errors="surrogateescape")[ATTRIBUTES:]
    return data.decode("utf-16-le", "replace").partition("\0")[0]


@dataclass(slots=True)
class _Chooser:
    root: str
    menu: list[Item]
    place: str  # of loader.conf
    settings: dict[str, str]
    problems: list[str]

    def next(self) -> tuple[Item | None, str]:
        """The order of systemd-boot: what is wanted once, preferred, the default, the first."""
        misses: list[str] = []
        for origin, pattern, bad_too in self._wishes():
            shown = printable(pattern)
            item = self._first_match(pattern, bad_too=bad_too)
            if item is not None:
                return item, f"{origin} names {shown}"
            if pattern.lower().startswith("auto-"):
                return None, f"{origin} names {shown}, which is no kernel but something that systemd-boot finds itself"
            misses.append(f"; {origin} names {shown}, which is not there")
        if not self.menu:
            return None, "there is nothing in systemd-boot's menu" + "".join(misses)
        return self.menu[0], "it is the first in systemd-boot's menu" + "".join(misses)

    def _wishes(self) -> list[tuple[str, str, bool]]:
        """Where something is wanted, what, and whether an entry that is out of tries will do."""
        info = re.match(r"systemd-boot ([0-9]+)", variable("LoaderInfo", self.root, self.problems))
        preferred = ["preferred"] if info is None or int(info[1]) >= PREFERRED_SINCE else []
        wishes = [("LoaderEntryOneShot", self._variable("LoaderEntryOneShot"), True)]
        for name in (*preferred, "default"):
            here = f"LoaderEntry{name.capitalize()}"
            wishes.append((here, self._variable(here), name == "default"))
            wishes.append((f"{name} in {self.place}", self.settings.get(name, ""), name == "default"))
        found = [(origin, self._saved(text), bad) for origin, text, bad in wishes]
        return [(origin, text, bad) for origin, text, bad in found if text]

    def _variable(self, name: str) -> str:
        return variable(name, self.root, self.problems)

    def _saved(self, text: str) -> str:
        if text.lower() == SAVED:
            return self._variable("LoaderEntryLastBooted")
        return "" if text.startswith("@") else text

    def _first_match(self, pattern: str, *, bad_too: bool) -> Item | None:
        """Older ones compare with the file's name, newer ones leave its boot counters away."""
        pattern = pattern.lower()
        if len(pattern) > PATTERN_LIMIT:
            return None
        match = re.compile(fnmatch.translate(pattern)).match
        candidates = (item for item in self.menu if bad_too or not item.bad)
        return next((i for i in candidates if any(match(n.lower()) for n in _names(i))), None)


def _names(item: Item) -> set[str]:
    return {item.entry.id} if item.profile else {item.entry.id, item.name}


def _loader_conf(root: str, problems: list[str]) -> tuple[str, dict[str, str]]:
    """The path of loader.conf, empty where there is none, and its settings, of which the last counts."""
    for partition in partitions(root):
        path = f"{partition}/loader/loader.conf"
        try:
            text = read_text(path, root=root)
        except OSError as error:
            problems.append(f"{path} cannot be read: {(error.strerror or str(error)).lower()}")
            return path, {}
        if text is not None:
            known = ((key, value) for key, value in key_values(text) if key in ("default", "preferred"))
            return path, {key: value for key, value in known if value.lower() == SAVED or not value.startswith("@")}
    return "", {}


def _installed(partition: str, root: str) -> bool:
    if any(name.lower().startswith("systemd-boot") for name in names(f"{partition}/EFI/systemd", ".efi", root, [])):
        return True
    started = names(f"{partition}/EFI/BOOT", ".efi", root, [])
    return bool(started) and os.path.isfile(join_root(root, f"{partition}/loader/loader.conf"))
