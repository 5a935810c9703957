# SPDX-License-Identifier: MIT
"""What GRUB would see of the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kexecd.discover.grub.filesystems import Filesystems
from kexecd.kernel.files import join_root, read_text
from kexecd.model import BootEntry

EFI = "/sys/firmware/efi"
SUPPORTED = "/sys/firmware/efi/efivars/OsIndicationsSupported-8be4df61-93ca-11d2-aa0d-00e098032b8c"
BOOT_TO_FIRMWARE = 1  # EFI_OS_INDICATIONS_BOOT_TO_FW_UI; UEFI specification 2.10, 8.5.4

Bls = Callable[[Mapping[str, str]], tuple[BootEntry, ...]]
"""Entries of the Boot Loader Specification, newest first, for the variables that GRUB has when it comes to `blscfg`."""


@dataclass(frozen=True, slots=True)
class Machine:
    filesystems: Filesystems
    platform: str  # pc, efi
    cpu: str  # i386, x86_64, arm64
    firmware_setup: bool  # whether the firmware can be asked to open its settings
    bls: Bls | None = None


def look(filesystems: Filesystems, bls: Bls | None, arch: str) -> Machine:
    """arch: as `uname -m` says it."""
    root = filesystems.root
    efi = os.path.isdir(join_root(root, EFI))
    pc = "i386" if arch == "x86_64" else arch  # started by a BIOS, GRUB is a 32-bit program
    cpu = {"aarch64": "arm64", "armv7l": "arm", "i686": "i386"}.get(arch, arch) if efi else pc
    return Machine(filesystems, "efi" if efi else "pc", cpu, efi and _can_open_settings(root), bls)


def _can_open_settings(root: str) -> bool:
    """What the firmware says; nearly every one can, so yes where it cannot be asked."""
    try:
        text = read_text(SUPPORTED, root=root)
    except OSError:
        return True
    if text is None:
        return True
    data = text.encode(errors="surrogateescape")  # four bytes of attributes, then the variable
    return bool(data[4:5]) and bool(data[4] & BOOT_TO_FIRMWARE)
