# SPDX-License-Identifier: MIT
"""What a boot loader was told to boot once: a kexec that has booted it has used it up, and the loader never knows.

systemd-boot: the variable LoaderEntryOneShot (https://systemd.io/BOOT_LOADER_INTERFACE), which it removes itself when
it boots by it. GRUB: next_entry in its environment block, which its configuration empties then (grub-reboot(8)).
Nothing else of a boot loader is touched, least of all what it boots by default.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from kexecd.discover import sdboot
from kexecd.discover.grub import grubenv
from kexecd.kernel.files import join_root, read_text

SDBOOT = "LoaderEntryOneShot"
GRUB = "next_entry"

GRUB_BLOCKS = ("/boot/grub/grubenv", "/boot/grub2/grubenv")

# include/uapi/linux/fs.h and asm-generic/ioctl.h; powerpc has other numbers for the directions.
_READ, _WRITE = (2, 4) if os.uname().machine.startswith("ppc") else (2, 1)
_DIRECTION = 29 if os.uname().machine.startswith("ppc") else 30
_LONG = struct.calcsize("l")
FS_IOC_GETFLAGS = _READ << _DIRECTION | _LONG << 16 | ord("f") << 8 | 1
FS_IOC_SETFLAGS = _WRITE << _DIRECTION | _LONG << 16 | ord("f") << 8 | 2
FS_IMMUTABLE_FL = 0x10


def told(root: str = "/") -> str:
    """Which of them is set, as `clear` takes it; empty where none is."""
    if sdboot.variable(SDBOOT, root, []):
        return SDBOOT
    return GRUB if any(_next_entry(path, root) for path in GRUB_BLOCKS) else ""


def clear(name: str, root: str = "/") -> str:
    """Take it away, if it is still there; what went wrong, as a sentence or nothing. Raises nothing."""
    try:
        if name == SDBOOT:
            _remove_variable(join_root(root, f"{sdboot.EFIVARS}/{SDBOOT}-{sdboot.VENDOR}"))
        elif name == GRUB:
            for path in GRUB_BLOCKS:
                _empty(path, root)
        else:
            return f"nobody knows how to take away what the boot loader was told once ({name})"
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        return f"what the boot loader was told to boot once ({name}) could not be taken away: {why}"
    return ""


def _next_entry(path: str, root: str) -> str:
    with contextlib.suppress(OSError):
        return (grubenv.parse(read_text(path, root=root) or "") or {}).get(GRUB, "")
    return ""


def _empty(path: str, root: str) -> None:
    """In its place and with its length: GRUB writes to the very blocks that the file had when it was made."""
    if not _next_entry(path, root):
        return
    fd = os.open(join_root(root, path), os.O_RDWR | os.O_CLOEXEC)
    try:
        before = os.pread(fd, 1 << 16, 0)
        lines = [line for line in before.split(b"\n") if not line.startswith(GRUB.encode() + b"=")]
        text = b"\n".join(lines)
        after = text + b"#" * (len(before) - len(text))
        if (grubenv.parse(after.decode(errors="surrogateescape")) or {}).get(GRUB):
            raise OSError(errno.EINVAL, "it is not written as GRUB writes it", path)
        os.pwrite(fd, after, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_variable(path: str) -> None:
    """The kernel keeps most variables from an `rm -r` by a flag (Documentation/filesystems/efivarfs.rst)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        with contextlib.suppress(OSError):  # not where efivarfs is another filesystem, as in a captured tree
            flags = struct.unpack("l", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(_LONG)))[0]
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", flags & ~FS_IMMUTABLE_FL))
    finally:
        os.close(fd)
    os.unlink(path)
