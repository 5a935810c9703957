# SPDX-License-Identifier: MIT
"""/proc/self/mountinfo (proc(5)), and what kind of filesystem a line is.

Nothing here calls stat(2) or statfs(2): on a network or FUSE mount whose server is gone they do not return.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from kexecd.model import Mount

MOUNTINFO = "/proc/self/mountinfo"


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
_NETWORK = frozenset("9p afs ceph cifs glusterfs lustre ncpfs nfs nfs4 orangefs smb3 smbfs".split())
_STACKED = frozenset("aufs ecryptfs overlay".split())
# Several devices behind one filesystem, so the kernel shows an anonymous device number for it.
_POOLED = frozenset(("bcachefs", "btrfs", "ubifs", "zfs"))


def parse(text: str) -> tuple[Mount, ...]:
    """Every mount, in the order of the file; lines that are not of the documented form are passed over."""
    return tuple(mount for line in text.splitlines() if (mount := _parse_line(line)))


def read() -> tuple[Mount, ...]:
    """The mounts of this process's namespace."""
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
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


def _parse_line(line: str) -> Mount | None:
    head, separator, tail = line.partition(" - ")
    left, right = head.split(" "), tail.split(" ")
    if not separator or len(left) < 6 or len(right) < 3:
        return None
    try:
        return Mount(
            id=int(left[0]),
            parent=int(left[1]),
            device=left[2],
            root=_unescape(left[3]),
            point=_unescape(left[4]),
            options=frozenset(left[5].split(",")),
            fstype=right[0],
            source=_unescape(right[1]),
            super_options=frozenset(right[2].split(",")),
        )
    except ValueError:
        return None


def _unescape(text: str) -> str:
    """Undo the kernel's octal escapes (fs/seq_file.c mangle_path: space, tab, newline, backslash, #)."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] if part[:3].isdigit() else "\\" + part for part in rest)
