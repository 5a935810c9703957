# SPDX-License-Identifier: MIT
"""Disks as raw image files, made without a loop device: blank, a bare ext4, or a GPT of two partitions.

Needs e2fsprogs, and gdisk for the partitions.
"""

from __future__ import annotations

from pathlib import Path

from tests.vm.lab.loaders import Loader
from tests.vm.lab.tools import run_tool

DISK_TIMEOUT = 120.0

MIB = 1 << 20
EDGE_MIB = 1
"""What a GPT takes at either end of the disk, aligned."""


def make_ext4(disk: Path, mib: int, label: str, content: Path | None = None) -> None:
    """Make `disk` an ext4 filesystem of `mib` MiB that holds what lies in `content`."""
    _mke2fs(disk, mib, label, content)


def make_blank(disk: Path, mib: int) -> None:
    """Make `disk` a disk of `mib` MiB with nothing on it."""
    with disk.open("wb") as file:
        file.truncate(mib * MIB)


def make_boot_disk(disk: Path, boot_mib: int, mib: int, boot: Path) -> None:
    """Make `disk` a /boot of `boot_mib` MiB that holds what lies in `boot`, and a second, blank partition of `mib`."""
    start = EDGE_MIB + boot_mib
    make_blank(disk, start + mib + EDGE_MIB)
    run_tool(
        "sgdisk",
        f"--new=1:{EDGE_MIB}MiB:+{boot_mib}MiB",
        f"--new=2:{start}MiB:+{mib}MiB",
        "--typecode=2:8309",
        disk,
        timeout=DISK_TIMEOUT,
    )
    _mke2fs(disk, boot_mib, "boot", boot, "-E", f"offset={EDGE_MIB * MIB}")


def make_root_disk(disk: Path, loader: Loader, mib: int, content: Path) -> None:
    """Make `disk` what `loader` can be installed on, with a root filesystem of `mib` MiB that holds `content`."""
    first = loader.first_partition
    if first is None:
        make_ext4(disk, mib, "root", content)
        return
    start = EDGE_MIB + first.mib
    make_blank(disk, start + mib + EDGE_MIB)
    run_tool(
        "sgdisk",
        f"--new=1:{EDGE_MIB}MiB:+{first.mib}MiB",
        f"--typecode=1:{first.type}",
        f"--new=2:{start}MiB:+{mib}MiB",
        "--typecode=2:8300",
        disk,
        timeout=DISK_TIMEOUT,
    )
    # Debian 12's GRUB reads no filesystem with these two, which hosts newer than that turn on.
    _mke2fs(disk, mib, "root", content, "-O", "^metadata_csum_seed,^orphan_file", "-E", f"offset={start * MIB}")


def _mke2fs(disk: Path, mib: int, label: str, content: Path | None, *options: str) -> None:
    fill = ("-d", content) if content else ()
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-L", label, *options, *fill, disk, f"{mib}M", timeout=DISK_TIMEOUT)
