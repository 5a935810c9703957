# SPDX-License-Identifier: MIT
"""Block devices that stand on files or on other devices, and swap: what /sys/block and /proc/swaps tell of them.

Documentation/ABI/stable/sysfs-block (holders, slaves), Documentation/ABI/testing/sysfs-block-dm,
Documentation/ABI/testing/sysfs-block-loop, Documentation/admin-guide/md.rst. Only sysfs is read: no device is opened to
be asked, because that may already wait for a disk that is gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass

from kexecd.kernel.files import join_root, read_text
from kexecd.kernel.guard import forbid_in_tests
from kexecd.kernel.mountinfo import unescape

LOOP_CLR_FD = 0x4C01  # include/uapi/linux/loop.h


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop device that is in use."""

    name: str  # loop0
    backing: str  # the file that it stands on; as the kernel names it, " (deleted)" included
    autoclear: bool  # it goes by itself when nobody uses it any more
    names: frozenset[str] = frozenset()  # its own and its partitions'
    numbers: frozenset[str] = frozenset()  # major:minor of those

    @property
    def device(self) -> str:
        return f"/dev/{self.name}"


@dataclass(frozen=True, slots=True)
class Stacked:
    """A device-mapper device or an md array."""

    name: str  # dm-0, md127
    names: frozenset[str]  # its own and its partitions'
    numbers: frozenset[str]  # major:minor of those
    below: frozenset[str]  # the devices that it is made of, partitions by their own names
    label: str = ""  # device-mapper's own name for it: vg-root
    uuid: str = ""  # device-mapper's; begins with who made it: LVM-, CRYPT-LUKS2-, mpath-
    state: str = ""  # md's array_state: clean, active, ...
    metadata: str = ""  # md's metadata_version: 1.2, external:imsm for a container
    resyncing: bool = False  # md: not clean before that has ended, after a restart if need be

    @property
    def is_md(self) -> bool:
        return not self.label

    @property
    def is_container(self) -> bool:
        """An md device that holds the others' metadata and no data."""
        return self.metadata.startswith("external:") and not self.metadata.startswith("external:/")

    @property
    def device(self) -> str:
        return f"/dev/mapper/{self.label}" if self.label else f"/dev/{self.name}"


@dataclass(frozen=True, slots=True)
class Swap:
    path: str
    is_file: bool  # a file holds its filesystem; a partition holds nothing
    used: int = 0  # bytes


@dataclass(frozen=True, slots=True)
class Live:
    """A disk filesystem that the kernel has open, whether or not it is mounted where anybody can see it."""

    name: str  # sda1; of a btrfs, the first of its devices
    fstype: str
    numbers: frozenset[str]  # major:minor of its devices
    writable: bool  # as far as the kernel tells; only ext4 does


@dataclass(frozen=True, slots=True)
class Storage:
    """All of it at one moment."""

    loops: tuple[Loop, ...] = ()
    stacked: tuple[Stacked, ...] = ()
    swaps: tuple[Swap, ...] = ()
    pools: tuple[frozenset[str], ...] = ()  # the devices (sda1) of each btrfs that is mounted


def storage(root: str = "/") -> Storage:
    return Storage(loops(root), stacked(root), swaps(root), pools(root))


def loops(root: str = "/") -> tuple[Loop, ...]:
    """Every loop device with something behind it."""
    found = []
    for name in _list(root, "/sys/block"):
        # Not stripped: the name of a file may end in a blank.
        if name.startswith("loop") and (backing := _read(root, f"/sys/block/{name}/loop/backing_file").rstrip("\n")):
            autoclear = _value(root, f"/sys/block/{name}/loop/autoclear") == "1"
            found.append(Loop(name, backing, autoclear, *_names_and_numbers(root, name)))
    return tuple(found)


def stacked(root: str = "/") -> tuple[Stacked, ...]:
    """Every device-mapper device and every md array that is there; an md that was never started is not."""
    found = []
    for name in _list(root, "/sys/block"):
        top = f"/sys/block/{name}"
        if name.startswith("dm-"):
            names, numbers = _names_and_numbers(root, name)
            below = frozenset(_list(root, f"{top}/slaves"))
            label, uuid = _value(root, f"{top}/dm/name"), _value(root, f"{top}/dm/uuid")
            found.append(Stacked(name, names, numbers, below, label or name, uuid))
        elif name.startswith("md") and (state := _value(root, f"{top}/md/array_state")) not in ("", "clear"):
            names, numbers = _names_and_numbers(root, name)
            below = frozenset(_list(root, f"{top}/slaves"))
            metadata = _value(root, f"{top}/md/metadata_version")
            resyncing = _value(root, f"{top}/md/sync_action") in ("resync", "reshape")
            found.append(Stacked(name, names, numbers, below, state=state, metadata=metadata, resyncing=resyncing))
    return tuple(found)


def swaps(root: str = "/") -> tuple[Swap, ...]:
    """What the machine swaps to (proc(5), /proc/swaps: path, type, size, used in KiB; blanks in octal)."""
    rows = [line.split() for line in _read(root, "/proc/swaps").splitlines()[1:]]
    return tuple(
        Swap(unescape(row[0]), row[1] == "file", int(row[3]) * 1024 if len(row) > 3 and row[3].isdecimal() else 0)
        for row in rows
        if len(row) >= 2
    )


def pools(root: str = "/") -> tuple[frozenset[str], ...]:
    """The devices of each btrfs that is mounted anywhere: its mounts name only one of them."""
    found = (frozenset(_list(root, f"/sys/fs/btrfs/{name}/devices")) for name in _list(root, "/sys/fs/btrfs"))
    return tuple(devices for devices in found if devices)


def live(root: str = "/") -> tuple[Live, ...]:
    """Those of the filesystems that have a directory in /sys/fs for each that is open.

    A mount that was detached lazily, that covers the root of an initramfs, or whose unmounting hangs in the kernel is
    in no mountinfo any more; here it still is.
    """
    found = []
    for fstype in ("ext4", "f2fs", "xfs"):
        for name in _list(root, f"/sys/fs/{fstype}"):
            if number := _value(root, f"/sys/class/block/{name}/dev"):  # no device: "features", "stats"
                options = _read(root, f"/proc/fs/{fstype}/{name}/options")
                found.append(Live(name, fstype, frozenset((number,)), not options.startswith("ro")))
    for devices in pools(root):
        numbers = frozenset(_value(root, f"/sys/class/block/{name}/dev") for name in devices)
        found.append(Live(min(devices), "btrfs", numbers, True))
    return tuple(found)


def device_names(path: str) -> Iterator[str]:
    """The names by which sysfs may know /dev/PATH: dm-0 itself, or device-mapper's label."""
    if path.startswith("/dev/mapper/"):
        yield path.removeprefix("/dev/mapper/")
    elif path.startswith("/dev/"):
        yield path.removeprefix("/dev/").replace("/", "!")  # sysfs writes cciss/c0d0 so


def detach(device: str) -> None:
    """Take a loop device off its file. One that went by itself meanwhile is no error.

    Raises OSError; EBUSY where the kernel only promises to do it as soon as nobody has the device open any more
    (drivers/block/loop.c, loop_clr_fd), since until then its file is as busy as before.
    """
    forbid_in_tests(f"detach {device}")
    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)
    if os.path.exists(f"/sys/block/{os.path.basename(device)}/loop/backing_file"):
        raise OSError(errno.EBUSY, "LOOP_CLR_FD", device)


def _names_and_numbers(root: str, name: str) -> tuple[frozenset[str], frozenset[str]]:
    top = f"/sys/block/{name}"
    parts = [part for part in _list(root, top) if part.startswith(name)]
    numbers = [_value(root, f"{top}/dev"), *(_value(root, f"{top}/{part}/dev") for part in parts)]
    return frozenset((name, *parts)), frozenset(number for number in numbers if number)


def _list(root: str, path: str) -> list[str]:
    try:
        return sorted(os.listdir(join_root(root, path)))
    except OSError:
        return []


def _value(root: str, path: str) -> str:
    return _read(root, path).strip()


def _read(root: str, path: str) -> str:
    try:
        return read_text(path, root=root) or ""
    except OSError:
        return ""
