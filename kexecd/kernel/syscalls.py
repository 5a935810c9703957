# SPDX-License-Identifier: MIT
"""System calls that Python does not offer. Each releases the GIL and raises OSError(errno, name of the call).

Those that cannot be taken back ask kexecd.kernel.guard first. No policy, and no second attempt.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import NamedTuple

from kexecd.errors import Unsupported
from kexecd.kernel.guard import forbid_in_tests

# include/uapi/linux/kexec.h
KEXEC_FILE_UNLOAD = 0x1
KEXEC_FILE_NO_INITRAMFS = 0x4
KEXEC_ARCH_DEFAULT = 0 << 16

# include/uapi/linux/reboot.h
LINUX_REBOOT_MAGIC1 = 0xFEE1DEAD
LINUX_REBOOT_MAGIC2 = 672274793
LINUX_REBOOT_CMD_RESTART = 0x01234567
LINUX_REBOOT_CMD_KEXEC = 0x45584543

# include/uapi/linux/mount.h
MS_RDONLY = 0x1
MS_REMOUNT = 0x20
MS_BIND = 0x1000

# include/linux/fs.h
MNT_FORCE = 0x1
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

CLONE_NEWNS = 0x00020000  # include/uapi/linux/sched.h


class Numbers(NamedTuple):
    kexec_load: int
    kexec_file_load: int
    reboot: int


# As `uname -m` says it. arch/x86/entry/syscalls/syscall_64.tbl, scripts/syscall.tbl (aarch64, riscv64),
# arch/powerpc/kernel/syscalls/syscall.tbl, arch/s390/kernel/syscalls/syscall.tbl.
NUMBERS = {
    "x86_64": Numbers(246, 320, 169),
    "aarch64": Numbers(104, 294, 142),
    "riscv64": Numbers(104, 294, 142),
    "ppc64": Numbers(268, 382, 88),
    "ppc64le": Numbers(268, 382, 88),
    "s390x": Numbers(277, 381, 88),
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def numbers(machine: str, *, wide: bool) -> Numbers:
    """The system call numbers of a 64-bit program (`wide`) on this machine type.

    A 32-bit program on a 64-bit kernel sees the kernel's machine type, but calls through another table.
    """
    if not wide:
        raise Unsupported("cannot call the kernel", f"this is a 32-bit Python on {machine}", hint="use a 64-bit Python")
    if machine not in NUMBERS:
        raise Unsupported("cannot call the kernel", f"the system call numbers of {machine} are not known")
    return NUMBERS[machine]


def kexec_file_load(kernel_fd: int, initrd_fd: int, cmdline: bytes, flags: int = 0) -> None:
    """Put an image into kernel memory in place of the one that is there, if any.

    kernel_fd: where the kernel's loader reads from; the file position does not matter.
    initrd_fd: the same; -1 together with KEXEC_FILE_NO_INITRAMFS for none.
    cmdline: without a trailing NUL.
    """
    number = _numbers().kexec_file_load
    forbid_in_tests("load a kernel")
    ended = cmdline + b"\0"
    _check(_syscall(number, kernel_fd, initrd_fd, len(ended), ended, flags), "kexec_file_load")


def kexec_unload() -> None:
    """Free the image, whichever of the two calls loaded it. None being there is not an error."""
    call = _numbers()
    forbid_in_tests("unload a kernel")
    result = _syscall(call.kexec_file_load, -1, -1, 0, None, KEXEC_FILE_UNLOAD)
    if result == -1 and ctypes.get_errno() == errno.ENOSYS:  # CONFIG_KEXEC without CONFIG_KEXEC_FILE
        _check(_syscall(call.kexec_load, 0, 0, None, KEXEC_ARCH_DEFAULT), "kexec_load")
    else:
        _check(result, "kexec_file_load")


def reboot(command: int) -> None:
    """Restart the machine, at once and without sync(2). Returns only by raising."""
    number = _numbers().reboot
    forbid_in_tests("restart the machine")
    _check(_syscall(number, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, command, None), "reboot")


def remount(point: str, flags: int, data: str = "") -> None:
    """Change what is mounted topmost on `point`.

    Without MS_BIND the filesystem itself changes, everywhere it is mounted; with it only this mount of it. Flags of
    this mount that are not named (nosuid, nodev, noexec) are dropped, but for those about atime.
    """
    forbid_in_tests(f"remount {point}")
    path, options = os.fsencode(point), os.fsencode(data) or None
    _check(_libc.mount(None, path, None, ctypes.c_ulong(MS_REMOUNT | flags), options), "mount", point)


def remount_read_only(point: str) -> None:
    remount(point, MS_RDONLY)


def umount(point: str, flags: int = UMOUNT_NOFOLLOW) -> None:
    """Unmount what is mounted topmost on `point`, which is not followed if it is a symbolic link."""
    forbid_in_tests(f"unmount {point}")
    _check(_libc.umount2(os.fsencode(point), flags), "umount2", point)


def enter_mounts(door: str) -> None:
    """Move this process into the mount namespace behind `door`, a /proc/PID/ns/mnt; its directories become that root.

    For a process with one thread only (setns(2)).
    """
    fd = os.open(door, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, CLONE_NEWNS), "setns", door)
    finally:
        os.close(fd)


def syncfs(fd: int) -> None:
    """Write back the filesystem that `fd` is on. May take as long as the disk likes."""
    _check(_libc.syncfs(fd), "syncfs")


def swapoff(path: str) -> None:
    forbid_in_tests(f"stop swapping to {path}")
    _check(_libc.swapoff(os.fsencode(path)), "swapoff", path)


def _numbers() -> Numbers:
    return numbers(os.uname().machine, wide=sys.maxsize > 2**32)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    # Every argument is a whole register: a plain Python int would be passed as a 32-bit one.
    registers = (ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments)
    result: int = _libc.syscall(ctypes.c_long(number), *registers)
    return result


def _check(result: int, call: str, *path: str) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), call, *path)
