# SPDX-License-Identifier: MIT
"""The names that Gentoo's kexec init script looks for (sys-apps/kexec-tools, kexec-r2.init), in its order.

The script takes the first kernel and, independently, the first initrd that exists in the boot directory. Names without
a version come first, and the versioned ones are those of the kernel that runs: after an upgrade it takes the old one,
and it may join a new kernel with the old one's initrd. Its order is kept here, its way of joining is not (see
kexecd.discover.joining): where the two differ the entry says what the script would have done.

Not taken over: that the script looks below an unmounted boot directory first, and its guess of root= (kexecd.target).
"""

from __future__ import annotations

import os

from kexecd.discover.joining import join, version_of
from kexecd.discover.lookup import problem
from kexecd.discover.pairs import BACKUP, expects_initrd, initrd_version, parse_name
from kexecd.kernel.files import join_root, resolve
from kexecd.model import BootEntry, Found, Source

KERNELS = (
    *("bzImage", "vmlinux", "vmlinuz", "kernel", "bzImage-{release}", "vmlinux-{release}", "vmlinuz-{release}"),
    *("kernel-genkernel-{machine}-{release}", "kernel-genkernel-{genkernel}-{release}"),
    *("kernel-{release}", "kernel-{machine}"),
)
INITRDS = (
    *("initrd", "initramfs", "initrd.img-{release}", "initrd-{release}.img", "initrd-{release}"),
    *("initramfs-{release}.img", "initramfs-genkernel-{machine}-{release}"),
    "initramfs-genkernel-{genkernel}-{release}",
)
GENKERNEL_ARCHES = {"x86_64": "amd64", "i386": "x86", "i486": "x86", "i586": "x86", "i686": "x86"}

WHO = "Gentoo's init script"


def kernel_names(release: str, machine: str) -> tuple[str, ...]:
    """The names of kernels that the script tries, in its order; `release` and `machine` as uname(1) says them."""
    return _names(KERNELS, release, machine)


def initrd_names(release: str, machine: str) -> tuple[str, ...]:
    return _names(INITRDS, release, machine)


def find(root: str = "/", boot_dir: str = "/boot", *, release: str, machine: str) -> Found:
    """The kernels with the script's names, in its order; an entry's id is the name of its file.

    release, machine: of the kernel that runs, as uname(1) says them.
    """
    place = "/" + boot_dir.strip("/")
    kernels = [path for path in _paths(kernel_names(release, machine), place) if _exists(path, root)]
    initrds = (path for path in _paths(initrd_names(release, machine), place) if _exists(path, root))
    theirs = next(initrds, "")
    expected = bool(kernels) and expects_initrd(root, place)
    entries = tuple(_entry(kernel, theirs, root, place, expected=expected) for kernel in kernels)
    if not entries:
        return Found(Source.GENTOO, reason=f"none of the names that {WHO} looks for is in {place}")
    reason = f"{kernels[0]} is the first of the names that {WHO} looks for"
    version = initrd_version(theirs, root)
    if version and version != entries[0].version:
        reason += f", and it would be joined with {theirs}"
    return Found(Source.GENTOO, entries, entries[0].id, reason)


def _entry(kernel: str, theirs: str, root: str, boot_dir: str, *, expected: bool) -> BootEntry:
    name = kernel.rpartition("/")[2]
    version = version_of(kernel, root)
    said = f"{WHO} would join it with {theirs}"
    joined = join(kernel, version, theirs, said=said, root=root, boot_dir=boot_dir, expected=expected)
    target = parse_name(resolve(kernel, root).rpartition("/")[2])
    backup = BACKUP if target and target.backup else ""
    return BootEntry(
        id=name,
        title=f"Linux {version}" if version else name,
        version=version,
        source=Source.GENTOO,
        kernel=kernel,
        initrds=(joined.initrd,) if joined.initrd else (),
        problems=tuple(text for text in (problem(kernel, root), *joined.problems, backup) if text),
        remarks=joined.remarks,
    )


def _names(patterns: tuple[str, ...], release: str, machine: str) -> tuple[str, ...]:
    genkernel = GENKERNEL_ARCHES.get(machine, machine)
    named = (pattern.format(release=release, machine=machine, genkernel=genkernel) for pattern in patterns)
    return tuple(dict.fromkeys(named))  # genkernel's name for aarch64 is aarch64


def _paths(names: tuple[str, ...], boot_dir: str) -> list[str]:
    return [f"{boot_dir.rstrip('/')}/{name}" for name in names]


def _exists(path: str, root: str) -> bool:
    """As `test -e` has it: a link that leads nowhere does not exist."""
    return os.path.exists(join_root(root, path))
