# SPDX-License-Identifier: MIT
"""What stands in for kernels and initrds in the golden trees: small, and yet what their headers say they are.

`python -m tests.golden.kernels FILE VERSION` writes a kernel of that version, without one it writes an initrd.
"""

from __future__ import annotations

import sys
from pathlib import Path
from struct import pack_into

SETUP_SIZE = 2 * 512  # the boot sector and one sector of setup code
CODE_SIZE = 512


def kernel(version: str) -> bytes:
    """A bzImage of the fewest bytes that tell its version and that it is whole (Documentation/arch/x86/boot.rst)."""
    image = bytearray(SETUP_SIZE + CODE_SIZE)
    pack_into("<B", image, 0x1F1, SETUP_SIZE // 512 - 1)
    pack_into("<I", image, 0x1F4, CODE_SIZE // 16)
    pack_into("<H", image, 0x1FE, 0xAA55)
    image[0x202:0x206] = b"HdrS"
    pack_into("<H", image, 0x206, 0x020F)
    pack_into("<H", image, 0x20E, 0x100)  # the version string, less 0x200
    pack_into("<BBH", image, 0x234, 1, 21, 0x7F)
    pack_into("<I", image, 0x238, 2047)
    pack_into("<II", image, 0x248, 0x40, CODE_SIZE - 0x40)
    banner = f"{version} (golden@tree) #1 SMP PREEMPT_DYNAMIC".encode() + b"\0"
    image[0x300 : 0x300 + len(banner)] = banner
    return bytes(image)


def initrd() -> bytes:
    """A cpio archive with nothing in it (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    fields = [0] * 4 + [1] + [0] * 6 + [len("TRAILER!!!") + 1, 0]
    header = "070701" + "".join(f"{field:08X}" for field in fields)
    return (header + "TRAILER!!!").encode().ljust(124, b"\0")


if __name__ == "__main__":
    path, *version = sys.argv[1:]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(kernel(version[0]) if version else initrd())
