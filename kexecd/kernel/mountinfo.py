# SPDX-License-Identifier: MIT
"""/proc/self/mountinfo (proc(5)), and what kind of filesystem a line is.

Nothing here calls stat(2) or statfs(2): on a network or FUSE mount whose server is gone they do not return.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from enum import StrEnum

from kexecd.model import Mount

MOUNTINFO = "/proc/self/mountinfo"

_OCTAL = re.compile(r"\\([0-7]{3})")


class Kind(StrEnum):
    """What would be lost with a mount."""

    KERNEL = "kernel"  # an interface of the kernel: nothing
    VOLATILE = "volatile"  # lives in memory: nothing that was meant to stay
    DISK = "disk"  # a block device's filesystem: whatever is not written back
    NETWORK = "network"  # its server keeps it; our unwritten pages are lost
    FUSE = "fuse"  # a process keeps it
    STACKED = "stacked"  # made of other mounts, which are there as well


_KERNEL = frozenset(
    "autofs binder binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs functionfs fusectl"
    " hugetlbfs mqueue nfsd nsfs proc pstore resctrl rpc_pipefs securityfs selinuxfs smackfs sysfs tracefs".split()
)
_VOLATILE = frozenset(("ramfs", "rootfs", "tmpfs"))
_NETWORK = frozenset(
    "9p afs beegfs ceph cifs coda glusterfs gpfs lustre ncpfs nfs nfs4 orangefs pvfs2 smb3 smbfs vboxsf"
    " virtiofs".split()
)
_STACKED = frozenset("aufs ecryptfs overlay".split())
# Several devices behind one filesystem, so the kernel shows an anonymous device number for it.
_POOLED = frozenset(("bcachefs", "btrfs", "ubifs", "zfs"))


@functools.lru_cache(maxsize=4)  # on the way down the same thousands of lines are looked at again and again
def parse(text: str) -> tuple[Mount, ...]:
    """Every mount, in the order of the file; lines that are not of the documented form are passed over."""
    return tuple(mount for line in text.split("\n") if (mount := _parse_line(line)))


def read(path: str = MOUNTINFO) -> tuple[Mount, ...]:
    """The mounts of this process's namespace, or of another process's. Raises OSError."""
    # Lines end in a newline and in nothing else: a name may hold a carriage return, which is not escaped.
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return parse(file.read())


def kind(mount: Mount) -> Kind:
    fstype = mount.fstype
    if fstype in _KERNEL:
        return Kind.KERNEL
    if fstype in _VOLATILE:
        return Kind.VOLATILE
    if fstype in _NETWORK:
        return Kind.NETWORK
    if fstype == "fuse" or fstype.startswith("fuse."):
        return Kind.FUSE
    if fstype in _STACKED:
        return Kind.STACKED
    if fstype in _POOLED or not mount.device.startswith("0:"):
        return Kind.DISK
    return Kind.KERNEL


def writable_disks(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """One mount for each disk filesystem that can still change, the one nearest to its own root."""
    first: dict[str, Mount] = {}
    for mount in mounts:
        if kind(mount) is Kind.DISK and mount.writable:
            known = first.get(mount.device)
            if known is None or len(mount.root) < len(known.root):
                first[mount.device] = mount
    return tuple(first.values())


def fuse_connection(mount: Mount) -> str:
    """The name of a FUSE filesystem's connection in /sys/fs/fuse/connections, its device number (fs/fuse/control.c)."""
    major, _, minor = mount.device.partition(":")
    return str(int(major) << 20 | int(minor))


def _parse_line(line: str) -> Mount | None:
    head, separator, tail = line.partition(" - ")
    left, right = head.split(" "), tail.split(" ")
    if not separator or len(left) < 6 or len(right) < 3:
        return None
    try:
        return Mount(
            int(left[0]),
            int(left[1]),
            left[2],
            unescape(left[3]),
            unescape(left[4]),
            _options(left[5]),
            right[0],
            unescape(right[1]),
            _options(right[2]),
        )
    except ValueError:
        return None


@functools.lru_cache(maxsize=1024)
def _options(text: str) -> frozenset[str]:
    """The same few texts, thousands of times."""
    return frozenset(text.split(","))


def unescape(text: str) -> str:
    """Undo the kernel's octal escapes (fs/seq_file.c, mangle_path: space, tab, newline, backslash, #)."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text) if "\\" in text else text
