# SPDX-License-Identifier: MIT
"""Everything that a root directory offers to boot, source after source, and which boot loader is in charge of it.

The order of the sources is the order in which they are listed, and in which an id or a version that is named is looked
up: a boot loader's entry comes before the bare files, because it brings the command line that belongs to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kexecd.discover import bls, extlinux, gentoo, installkernel, links, modules, pairs, sdboot
from kexecd.discover.grub import source as grub
from kexecd.kernel.files import resolve
from kexecd.model import BootEntry, Found, Source


@dataclass(frozen=True, slots=True)
class Offer:
    """loader: what the boot loader in charge shows; None where there is none that we can read.

    guessed: only its entries are there, and nothing else shows that it is the one that boots.
    """

    found: tuple[Found, ...]
    loader: Found | None = None
    guessed: bool = False

    @property
    def entries(self) -> tuple[BootEntry, ...]:
        return tuple(entry for found in self.found for entry in found.entries)

    def of(self, *sources: Source) -> tuple[BootEntry, ...]:
        return tuple(entry for found in self.found if found.source in sources for entry in found.entries)


def look(root: str, boot_dir: str, *, release: str, machine: str, shadowing: tuple[str, ...] = ()) -> Offer:
    """What lies below `root`.

    release, machine: of the running kernel, by which Gentoo's classic names go.
    shadowing: boot partitions that are not mounted; what lies below their mount points is never taken for theirs.
    """
    grub_found = grub.find(root, bls=lambda variables: bls.grub_order(_bls(root, variables)), arch=machine)
    sdboot_found = sdboot.find(root, machine=machine)
    extlinux_found = extlinux.find(root)
    sdboot_runs = sdboot_found is not None and sdboot.runs(root)
    if sdboot_runs:
        loaders = [sdboot_found, grub_found, extlinux_found]
    elif grub_found and sdboot_found:
        # Fedora's GRUB shows these very entries, with its own variables put in.
        theirs = {entry.kernel for entry in grub_found.entries}
        rest = tuple(entry for entry in sdboot_found.entries if entry.kernel not in theirs)
        loaders = [grub_found, replace(sdboot_found, entries=rest), extlinux_found]
    else:
        loaders = [grub_found, extlinux_found, sdboot_found]
    files = [
        installkernel.find(root, boot_dir),
        pairs.find(root, boot_dir),
        modules.find(root, boot_dir),
        links.find(root, boot_dir),
        gentoo.find(root, boot_dir, release=release, machine=machine),
    ]
    found = _told_apart(_shadowed(one, root, shadowing) for one in (*loaders, *files) if one is not None)
    loader = next((one for one in found if one.source.is_boot_loader), None)
    guessed = loader is not None and not (sdboot_runs or grub_found or extlinux_found)
    return Offer(tuple(found), loader, guessed)


def _told_apart(sources: Iterable[Found]) -> list[Found]:
    """The same, with ids that name one entry each: an id that an earlier source has used gets its source in front."""
    used: set[str] = set()
    result = []
    for found in sources:
        ids = {e.id: f"{found.source}:{e.id}" if e.id in used else e.id for e in found.entries}
        used |= ids.keys()
        entries = tuple(replace(entry, id=ids[entry.id]) for entry in found.entries)
        result.append(replace(found, entries=entries, next=ids.get(found.next, found.next)))
    return result


def _bls(root: str, variables: Mapping[str, str]) -> tuple[BootEntry, ...]:
    return bls.entries(root, variables)


def _shadowed(found: Found, root: str, points: tuple[str, ...]) -> Found:
    return replace(found, entries=tuple(_mark(entry, root, points) for entry in found.entries)) if points else found


def _mark(entry: BootEntry, root: str, points: tuple[str, ...]) -> BootEntry:
    for path in (entry.kernel, *entry.initrds):
        place = resolve(path, root)
        point = next((p for p in points if place.startswith(f"{p}/")), "")
        if point:
            why = f"{point} is not mounted, so {os.path.basename(path)} is a leftover below its mount point"
            return replace(entry, problems=(why, *entry.problems))
    return entry
