# SPDX-License-Identifier: MIT
"""Boot Loader Specification, type 2: unified kernel images in EFI/Linux/ of a boot partition.

https://uapi-group.org/specifications/specs/boot_loader_specification/ 1, and systemd-boot(7) for what of an image's own
os-release becomes title, version and sort key. Every profile of an image is an entry, as in systemd-boot's menu, and
only the first can be taken. Add-ons and the like (systemd-stub(7)) are named, not taken: only the stub can tell which
of them are valid.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kexecd.discover.menu import OUT_OF_TRIES, Item, key_values, names, partitions, printable, split_counters
from kexecd.errors import Refusal
from kexecd.kernel import uki
from kexecd.kernel.files import open_regular
from kexecd.kernel.uki import UkiParts
from kexecd.model import BootEntry, Source

MOST_PROFILES = 256  # UNIFIED_PROFILES_MAX in systemd's src/fundamental/uki.h
COMPANIONS = (".addon.efi", ".cred", ".raw")
GLOBAL_COMPANIONS = (("addons", ".addon.efi"), ("credentials", ".cred"), ("extensions", ".raw"))  # below loader/


@dataclass(frozen=True, slots=True)
class Names:
    """What an os-release file calls a system, in the choice of systemd-boot."""

    title: str
    version: str
    sort_key: str


def entries(root: str = "/", *, machine: str = "") -> tuple[BootEntry, ...]:
    """All entries of type 2 below `root`, in the order of the specification. machine: as `uname -m` says it."""
    return tuple(item.entry for item in sorted(read(root, [], machine=machine), key=lambda item: item.place))


def read(root: str, problems: list[str], *, machine: str = "") -> Iterator[Item]:
    """The entries of type 2 in no order; what could not be looked at is told in `problems`."""
    for partition in partitions(root):
        found = names(f"{partition}/EFI/Linux", ".efi", root, problems)
        everywhere = _global_companions(partition, root) if found else []
        for name in found:
            yield from _items(partition, name, everywhere, root, machine)


def os_names(osrel: str) -> Names:
    """os-release(5), as systemd-boot reads it."""
    fields = dict(key_values(osrel, "="))

    def first(*keys: str) -> str:
        return next((fields[key] for key in keys if fields.get(key)), "")

    return Names(
        title=first("PRETTY_NAME", "IMAGE_ID", "NAME", "ID"),
        version=first("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"),
        sort_key=first("IMAGE_ID", "ID"),
    )


def _items(partition: str, name: str, everywhere: list[str], root: str, machine: str) -> Iterator[Item]:
    """The image's entries, one for each profile."""
    stem, left, done = split_counters(name[: -len(".efi")])
    path = f"{partition}/EFI/Linux/{name}"
    entry = BootEntry(id=f"{stem}.efi", title=printable(stem), version="", source=Source.UKI, kernel=path)
    item = Item(entry=entry, name=name, left=left, done=done)
    spent = (OUT_OF_TRIES,) if item.bad else ()
    try:
        profiles = _profiles(path, root)
    except Refusal as refusal:
        yield replace(item, entry=replace(entry, problems=(*spent, refusal.why)), shown=False)
        return
    companions = [*_own_companions(partition, name, stem, root), *everywhere]
    for number, parts in enumerate(profiles):
        called = os_names(parts.osrel)
        own = _named(entry, called.title, number, parts)
        own = replace(
            own,
            version=printable(parts.uname),
            cmdline=parts.cmdline or "",
            problems=(*spent, *_problems(parts, number, machine)),
            remarks=_remarks(parts, called, companions),
        )
        place = replace(item, sort_key=called.sort_key, version=called.version, profile=number)
        yield replace(place, entry=own, shown=bool(called.title))


def _profiles(path: str, root: str) -> list[UkiParts]:
    file = open_regular(path, "a unified kernel image", root=root)
    try:
        first = uki.sections_there(file.fd, path)
        numbers = range(1, min(len(first.profiles), MOST_PROFILES))
        return [first, *(uki.sections_there(file.fd, path, number) for number in numbers)]
    finally:
        os.close(file.fd)


def _named(entry: BootEntry, system: str, number: int, parts: UkiParts) -> BootEntry:
    fields = dict(key_values(parts.profiles[number], "=")) if parts.profiles else {}
    name = fields.get("ID") or str(number)
    title = fields.get("TITLE") or (name if number else "")
    title = f"{system or entry.title} ({title})" if title else system or entry.title
    return replace(entry, title=printable(title), id=printable(f"{entry.id}@{name}") if number else entry.id)


def _problems(parts: UkiParts, number: int, machine: str) -> list[str]:
    problems = [f"it is profile {number} of its image, and kexecd only takes the first"] if number else []
    if parts.missing:
        problems.append(uki.truncated(parts))
    known = parts.arch and machine
    x86 = machine == "x86_64" or (machine.startswith("i") and machine.endswith("86"))
    same = machine.startswith(parts.arch) or (x86 and parts.arch == "i386")  # armv7l runs arm
    if known and not same:
        problems.append(f"it is for {parts.arch}, this machine is {machine}")
    return problems


def _remarks(parts: UkiParts, called: Names, companions: list[str]) -> tuple[str, ...]:
    remarks = []
    if not called.title:
        remarks.append("systemd-boot does not show it, because its .osrel section does not name a system")
    if parts.device_trees:
        remarks.append("it brings a device tree, which kexec does not pass on")
    if companions:
        remarks.append(f"the boot loader would pass on {', '.join(map(printable, companions))}, kexec does not")
    return tuple(remarks)


def _own_companions(partition: str, name: str, stem: str, root: str) -> list[str]:
    directories = sorted({f"{partition}/EFI/Linux/{one}.extra.d" for one in (name, f"{stem}.efi")})
    return [file for path in directories for end in COMPANIONS for file in names(path, end, root, [])]


def _global_companions(partition: str, root: str) -> list[str]:
    return [file for kind, end in GLOBAL_COMPANIONS for file in names(f"{partition}/loader/{kind}", end, root, [])]
