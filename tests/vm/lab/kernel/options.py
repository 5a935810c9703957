# SPDX-License-Identifier: MIT
"""What the lab's kernel is made of: the options that are switched on, on top of `make tinyconfig`.

Small, because it is compiled on the machine that runs the tests: no modules and no initrd, everything that a guest of
the lab needs is built in. It is meant to run Debian's systemd and OpenRC, to kexec, and to carry memory over it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """Options that are there for one reason. on: switched on; values: (name, what it is set to)."""

    why: str
    on: tuple[str, ...]
    values: tuple[tuple[str, str], ...] = ()


GROUPS = (
    Group(
        "told apart from every other kernel by `uname -r`, and its own configuration is in /proc/config.gz",
        ("IKCONFIG", "IKCONFIG_PROC"),
        (("LOCALVERSION", '"-kexecd"'),),
    ),
    Group(
        "the emulated machine: 64 bits, two processors, ACPI, a clock",
        ("64BIT", "SMP", "PCI", "ACPI", "RTC_CLASS", "RTC_DRV_CMOS", "HIGH_RES_TIMERS", "NO_HZ_IDLE"),
    ),
    Group(
        "its console, from the first line on",
        ("PRINTK", "EARLY_PRINTK", "TTY", "UNIX98_PTYS", "SERIAL_8250", "SERIAL_8250_CONSOLE", "VIRTIO_CONSOLE"),
    ),
    Group(
        "its devices",
        (
            "VIRTIO_MENU", "VIRTIO_PCI", "BLOCK", "BLK_DEV", "VIRTIO_BLK", "NET", "INET", "UNIX", "NETDEVICES",
            "VIRTIO_NET", "HW_RANDOM", "HW_RANDOM_VIRTIO",
        ),
        (("IPV6", "n"),),
    ),
    Group(
        "the disks, and what is stacked on them",
        ("MSDOS_PARTITION", "EFI_PARTITION", "EXT4_FS", "BLK_DEV_LOOP", "MD", "BLK_DEV_DM", "OVERLAY_FS", "FUSE_FS"),
    ),
    Group(
        "what systemd and OpenRC take for granted",
        (
            "PROC_FS", "SYSFS", "DEVTMPFS", "DEVTMPFS_MOUNT", "SHMEM", "TMPFS", "TMPFS_POSIX_ACL", "TMPFS_XATTR",
            "CGROUPS", "CGROUP_PIDS", "CGROUP_FREEZER", "MEMCG", "INOTIFY_USER", "SIGNALFD", "TIMERFD", "EPOLL",
            "EVENTFD", "FHANDLE", "AIO", "FUTEX", "POSIX_TIMERS", "SYSVIPC", "MULTIUSER", "FILE_LOCKING",
            "ADVISE_SYSCALLS", "NAMESPACES", "UTS_NS", "PID_NS", "NET_NS", "SECCOMP", "BINFMT_ELF", "BINFMT_SCRIPT",
            "CRYPTO", "CRYPTO_HMAC", "CRYPTO_SHA256", "CRYPTO_USER_API_HASH",
        ),
    ),
    Group(
        "an initrd, for a test that brings one",
        ("BLK_DEV_INITRD", "RD_GZIP", "RD_ZSTD"),
    ),
    Group(
        "kexec, by both system calls; compressed as Debian compresses its own",
        ("RELOCATABLE", "KEXEC", "KEXEC_FILE", "CRASH_DUMP", "KERNEL_ZSTD"),
    ),
    Group(
        "kexec handover and live update: Documentation/admin-guide/mm/kho.rst, .../userspace-api/liveupdate.rst",
        (
            "MEMFD_CREATE", "KEXEC_HANDOVER", "KEXEC_HANDOVER_ENABLE_DEFAULT", "KEXEC_HANDOVER_DEBUGFS", "LIVEUPDATE",
            "LIVEUPDATE_MEMFD",
        ),
    ),
)  # fmt: skip

def fragment() -> str:
    """The lines that are put behind the tiny configuration; `make olddefconfig` takes the last of two."""
    lines = []
    for group in GROUPS:
        lines += ["", f"# {group.why}", *(f"CONFIG_{name}=y" for name in group.on)]
        lines += [f"CONFIG_{name}={value}" for name, value in group.values]
    return "\n".join(lines) + "\n"


def lacking(config: str) -> tuple[str, ...]:
    """The options that the finished configuration does not have: unknown to this kernel, or in need of another one."""
    lines = frozenset(config.splitlines())
    return tuple(name for group in GROUPS for name in group.on if f"CONFIG_{name}=y" not in lines)
