# SPDX-License-Identifier: MIT
"""Whether an ext4 filesystem was left clean, read from the disk of a machine that is off.

The superblock lies 1024 bytes into the filesystem (Documentation/filesystems/ext4/super.rst): at 0x38 the magic number,
at 0x60 the incompatible features, of which bit 2 says that the journal has to be replayed.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from tests.vm.lab.tools import run_tool

MAGIC = 0xEF53
NEEDS_RECOVERY = 0x4
MIB = 1 << 20


def needs_recovery(disk: Path, start_mib: int = 0) -> bool:
    """For a qcow2 file that no QEMU has open; start_mib: where on the disk the filesystem begins."""
    with tempfile.TemporaryDirectory(prefix="lab-superblock-") as directory:
        head = Path(directory, "head")
        run_tool(
            "qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=1M", f"skip={start_mib}", f"count={start_mib + 1}",
            f"if={disk}", f"of={head}",
            timeout=60,
        )  # fmt: skip
        superblock = head.read_bytes()[1024:2048]
    (magic,) = struct.unpack_from("<H", superblock, 0x38)
    if magic != MAGIC:
        raise ValueError(f"there is no ext4 filesystem {start_mib} MiB into {disk}")
    (features,) = struct.unpack_from("<I", superblock, 0x60)
    return bool(features & NEEDS_RECOVERY)
