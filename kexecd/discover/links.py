# SPDX-License-Identifier: MIT
"""Kernels under a name that stays the same from one version to the next.

Debian's /vmlinuz and /initrd.img (linux-update-symlinks(1): the kernel that was installed last, and .old the one before
it), the same in /boot (Debian's link_in_boot, openSUSE with /boot/initrd), and kernels that are called after their
flavour: Arch's vmlinuz-linux with initramfs-linux.img, Alpine's vmlinuz-lts with initramfs-lts. What a link leads to is
the entry; its initrd is that of its version, not what the other link leads to.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kexecd.discover.joining import join, version_of
from kexecd.discover.lookup import problem
from kexecd.discover.pairs import BACKUP, RESCUE, UNVERSIONED, expects_initrd, parse_name, with_microcode
from kexecd.discover.version import kernel_key
from kexecd.kernel.files import join_root, resolve
from kexecd.model import BootEntry, Found, Source

FIXED = (
    ("/vmlinuz", ("/initrd.img",)),
    ("{boot}/vmlinuz", ("{boot}/initrd.img", "{boot}/initrd", "{boot}/initramfs.img", "{boot}/initramfs")),
    ("{boot}/Image", ("{boot}/initrd.img", "{boot}/initrd")),
    ("/vmlinuz.old", ("/initrd.img.old",)),
    ("{boot}/vmlinuz.old", ("{boot}/initrd.img.old", "{boot}/initrd.old", "{boot}/initramfs.img.old")),
)
"""Each kernel with the names of its initrd; the current ones first."""

FALLBACK = "initramfs-{}-fallback.img"  # mkinitcpio's preset: every module, for when the ordinary one does not boot


@dataclass(frozen=True, slots=True)
class _Name:
    """One name to look at: its path, and the initrd that goes by the same kind of name, empty if there is none."""

    path: str
    initrd: str
    flavour: str = ""


def find(root: str = "/", boot_dir: str = "/boot") -> Found:
    """The kernels with such names: the fixed ones first, then the flavours, the newest first.

    The id of what lies in the boot directory is the name of its file, that of /vmlinuz its path.
    """
    place = "/" + boot_dir.strip("/")
    fixed, flavours = _fixed(root, place.rstrip("/")), _flavours(root, place)
    expected = bool(fixed or flavours) and expects_initrd(root, place)
    first = [_entry(name, root, place, expected=expected) for name in fixed]
    second = [_entry(name, root, place, expected=expected) for name in flavours]
    second.sort(key=lambda entry: kernel_key(entry.version), reverse=True)
    entries = (*first, *second)
    if fixed and not fixed[0].path.endswith(".old"):
        return Found(Source.LINK, entries, first[0].id, f"{fixed[0].path} is where the current kernel is by convention")
    reason = "names without a version do not say which is next" if entries else "there are no such names"
    return Found(Source.LINK, entries, reason=reason)


def _fixed(root: str, boot_dir: str) -> list[_Name]:
    found = []
    for kernel, initrds in FIXED:
        path = kernel.format(boot=boot_dir)
        if _is_there(path, root):
            initrd = next((i for name in initrds if _is_there(i := name.format(boot=boot_dir), root)), "")
            found.append(_Name(path, initrd))
    return found


def _flavours(root: str, boot_dir: str) -> list[_Name]:
    try:
        names = sorted(os.listdir(join_root(root, boot_dir)))
    except OSError:
        return []  # the versioned kernels are in the same directory; that source says why
    found = []
    for name in names:
        parsed = parse_name(name) if name.startswith(UNVERSIONED) else None
        if parsed and not parsed.version[0].isdigit():
            found.append(_Name(f"{boot_dir.rstrip('/')}/{name}", "", parsed.version))
    return found


def _entry(name: _Name, root: str, boot_dir: str, *, expected: bool) -> BootEntry:
    kernel = resolve(name.path, root)
    version = version_of(kernel, root)
    theirs = resolve(name.initrd, root) if name.initrd else ""
    said = f"{name.initrd} leads to {theirs}" if theirs != name.initrd else f"{theirs} is beside it"
    joined = join(name.path, version, theirs, said=said, root=root, boot_dir=boot_dir, expected=expected)
    parsed = parse_name(kernel.rpartition("/")[2])
    of_note = (RESCUE if parsed and parsed.rescue else "", BACKUP if _is_backup(name, kernel) else "")
    directory, _, file = name.path.rpartition("/")
    fallback = f"{directory}/{FALLBACK.format(name.flavour)}"
    remarks = joined.remarks
    if name.flavour and _is_there(fallback, root):
        remarks += (f"{fallback} is there too, and is not used",)
    return BootEntry(
        id=file if directory == boot_dir.rstrip("/") and directory else name.path,
        title=f"Linux {version}" if version else file,
        version=version,
        source=Source.LINK,
        kernel=kernel,
        initrds=with_microcode(joined.initrd, root),
        problems=tuple(text for text in (problem(kernel, root), *joined.problems, *of_note) if text),
        remarks=remarks,
    )


def _is_backup(name: _Name, kernel: str) -> bool:
    """A copy that was set aside; not a link to the kernel before this one, which is a kernel like any other."""
    parsed = parse_name(kernel.rpartition("/")[2])
    return bool(parsed and parsed.backup) or (parsed is None and name.path.endswith(".old"))


def _is_there(path: str, root: str) -> bool:
    """A link that leads nowhere is there: somebody should hear of it."""
    directory, _, name = path.rpartition("/")
    return os.path.lexists(f"{join_root(root, directory or '/').rstrip('/')}/{name}")
