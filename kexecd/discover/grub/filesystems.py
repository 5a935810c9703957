# SPDX-License-Identifier: MIT
"""Where GRUB's paths are in our tree.

GRUB names a file by filesystem and path inside of it: (hd0,gpt2)/vmlinuz, or /vmlinuz on whatever `root` is. It looks
filesystems up by UUID, label or a file; where they are mounted is told by /etc/fstab and /proc/self/mountinfo, and
/dev/disk says which UUID belongs to which device. Filesystems whose UUID nobody tells may be any; there, the file that
exists decides. On ZFS a path begins with the dataset and an @ (the GRUB manual, "File name syntax"); which one that is
is told by its mount, and never guessed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace

from kexecd.discover import fstab
from kexecd.discover.grub.lexer import NotUnderstood
from kexecd.kernel.files import join_root, read_text, resolve
from kexecd.kernel.mountinfo import MOUNTINFO
from kexecd.kernel.mountinfo import parse as parse_mountinfo

OWN = "own"
"""What `root` is until grub.cfg looks for something: the filesystem of grub.cfg. GRUB has no device of this name."""

SUBVOLUME = re.compile(r"/(?:@|@rootfs|root|rootfs)(?=/)")
"""Of btrfs: what installers call the one with the system (Ubuntu, Debian, Fedora), which GRUB's paths begin with."""

DATASET = re.compile(r"/[^@]+@[^/@]*/")
"""Of ZFS: what a path in a dataset or a snapshot begins with. A pool's own one, /@/, looks like a btrfs subvolume."""

LIKELY = ("/", "/boot", "/boot/efi", "/efi")  # where a filesystem with kernels is mounted

LONGEST_PATH = 4096  # PATH_MAX in include/uapi/linux/limits.h
INSIDE = ("loop", "memdisk", "cd", "proc")  # devices that are files, or no disks

_SPLIT = re.compile(r"(?:\(([^()]*)\))?(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """Something that is mounted, or should be."""

    point: str
    inside: str = ""  # the directory of the filesystem that is mounted there; empty for its root
    device: str = ""  # below /dev, links followed
    uuid: str = ""
    label: str = ""

    def holds(self, path: str) -> bool:
        return path == self.point or path.startswith(self.point.rstrip("/") + "/")

    def ours(self, path: str) -> str:
        """Where the path, as the filesystem has it, is in our tree; empty if it is not below this mount."""
        if self.inside and not path.startswith(self.inside + "/"):
            return ""
        return self.point.rstrip("/") + path[len(self.inside) :]

    def theirs(self, path: str) -> str:
        """Where a path of our tree is on the filesystem."""
        return self.inside + path[len(self.point.rstrip("/")) :]


class Filesystems:
    """Of one tree, which holds the configuration file at `config`."""

    def __init__(self, root: str, config: str) -> None:
        self.root = root
        self.places = _places(root)
        self._config = resolve(config, root)
        self.own = self._place_of(self._config)
        self._searched: dict[str, tuple[str, str]] = {}  # device: what was looked for
        self._devices: dict[tuple[str, str], str] = {}  # the same the other way round
        self._claims: dict[Place, str] = {}  # a place whose UUID nobody tells: the device that turned out to be there

    @property
    def prefix(self) -> str:
        """GRUB's `prefix`: the directory of the configuration file."""
        directory = self._config.rpartition("/")[0]
        return f"({OWN}){self.own.theirs(directory) if self.own else directory}"

    def locate(self, device: str, path: str) -> tuple[str, str]:
        """The file of our tree that (device)path is, or, second, why it cannot be told which; one of them is empty.

        A path that no file has, but that is on a filesystem which is there, is a file all the same.
        """
        exact, guessed = self._candidates(device, path)
        if not exact and not guessed:
            where = "a part of a filesystem" if self._known(device) else "a filesystem"
            return "", f"{path} is on {where} that is not mounted here ({self._shown(device)})"
        for candidates in (exact, guessed):
            there = {resolve(name, self.root): name for name in reversed(candidates) if self._exists(name)}
            if len(there) > 1:
                return "", f"{path} could be {' or '.join(sorted(there.values()))}"
            for name in there.values():
                if self._searched.get(device, ("",))[0] == "UUID":
                    self._claims.setdefault(candidates[name], device)
                return name, ""
        if DATASET.match(path):
            return "", f"{path} is in a ZFS dataset that is not known to be mounted here"
        return next(iter(exact or guessed)), ""

    def looks(self, option: str, device: str, path: str) -> bool:
        """Whether the condition -d, -e, -f or -s holds for (device)path."""
        exact, guessed = self._candidates(device, path)
        if not exact and not guessed:
            shown = self._shown(device)
            raise NotUnderstood(f"{path} is looked for on a filesystem that is not mounted here ({shown})")
        for name in (*exact, *guessed):
            try:
                status = os.stat(join_root(self.root, name))
            except (OSError, ValueError):
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            if option == "-e" or (is_directory if option == "-d" else not is_directory):
                return option != "-s" or status.st_size > 0
        return False

    def found(self, kind: str, what: str) -> str:
        """The device that `search` finds; empty if it finds none. kind: UUID, LABEL or FILE."""
        device = self._devices.setdefault((kind, what), f"search{len(self._devices)}")
        self._searched[device] = kind, what
        if kind != "FILE":
            return device
        places = [place for place in self._anywhere() if (name := place.ours(what)) and self._exists(name)]
        files = {resolve(place.ours(what), self.root) for place in places}
        if len(files) > 1:
            raise NotUnderstood(f"{what} is on more than one filesystem")
        return device if places else ""

    def _candidates(self, device: str, path: str) -> tuple[dict[str, Place], dict[str, Place]]:
        """The files that (device)path can be: those that it is, and those that it is if subvolumes are not what is
        known of them. There are none if the filesystem is not mounted.
        """
        exact: dict[str, Place] = {}
        guessed: dict[str, Place] = {}
        if path.startswith("/"):
            for place in self._known(device) or self._unknown(device):
                _add(exact, place.ours(path), place)
                if place.inside and place.point in LIKELY:  # relative to the subvolume, as openSUSE has it
                    _add(guessed, place.point.rstrip("/") + path, place)
                if match := SUBVOLUME.match(path):
                    _add(guessed, place.ours(path[match.end() :]), place)
        return self._visible(exact), self._visible(guessed)

    def _visible(self, names: dict[str, Place]) -> dict[str, Place]:
        """Without the files that are hidden below another filesystem's mount."""
        return {name: place for name, place in names.items() if self._is_on(name, place)}

    def _known(self, device: str) -> tuple[Place, ...]:
        if device == OWN:
            return tuple(place for place in self.places if self.own and _same(place, self.own))
        kind, what = self._searched.get(device, ("", ""))
        if kind == "FILE":
            return tuple(place for place in self._anywhere() if (name := place.ours(what)) and self._exists(name))
        if not kind:
            name = device.removeprefix("lvm/")  # lvm/group-volume is GRUB's name of /dev/mapper/group-volume
            path = resolve(f"/dev/mapper/{name}", self.root)
            return tuple(place for place in self.places if name != device and place.device == path)
        link = f"/dev/disk/by-{kind.lower()}/{what}"
        behind = resolve(link, self.root)
        return tuple(
            place
            for place in self.places
            if (place.uuid.lower() == what.lower() if kind == "UUID" else place.label == what)
            or (behind != link and place.device == behind)
        )

    def _unknown(self, device: str) -> tuple[Place, ...]:
        """Where a filesystem that is not known by this name may still be mounted."""
        kind, _ = self._searched.get(device, ("", ""))
        if not kind:  # hd0,gpt2: GRUB counts disks as the firmware does
            return () if device in INSIDE else self._anywhere()
        return tuple(
            place
            for place in self._anywhere()
            if not (place.uuid if kind == "UUID" else place.label) and self._claims.get(place, device) == device
        )

    def _anywhere(self) -> tuple[Place, ...]:
        likely = tuple(place for place in self.places if place.point in LIKELY)
        if any(place.point == "/" for place in likely):
            return likely
        # Nothing says what is mounted: a tree without /etc/fstab, where /boot may have been another filesystem.
        boot = () if any(place.point == "/boot" for place in likely) else (Place("/boot"),)
        return (Place("/"), *boot, *likely)

    def _is_on(self, name: str, place: Place) -> bool:
        """Whether the file is on that filesystem and not on one that is mounted over it."""
        owner = self._place_of(resolve(name.rpartition("/")[0], self.root))
        return owner is None or owner == place or place not in self.places or _same(owner, place)

    def _shown(self, device: str) -> str:
        kind, what = self._searched.get(device, ("", device))
        return f"{kind} {what}".strip()

    def _place_of(self, path: str) -> Place | None:
        holding = [place for place in self.places if place.holds(path)]
        return max(holding, key=lambda place: len(place.point), default=None)

    def _exists(self, name: str) -> bool:
        try:
            return os.path.exists(join_root(self.root, name))
        except ValueError:
            return False


def split_path(path: str, root: str) -> tuple[str, str]:
    """Device and path of a file as GRUB writes it, where `root` is the device that is meant when it names none."""
    if len(path) > LONGEST_PATH:
        raise NotUnderstood(f"a path of {len(path)} characters")
    match = _SPLIT.fullmatch(path)
    device, rest = match.groups() if match else (None, path)
    return device or root, rest


def _same(one: Place, other: Place) -> bool:
    """Whether two mounts are of one filesystem."""
    if one == other:
        return True
    return bool((one.uuid and one.uuid == other.uuid) or (one.device and one.device == other.device))


def _add(names: dict[str, Place], name: str, place: Place) -> None:
    if name:
        names.setdefault(name, place)


def _places(root: str) -> tuple[Place, ...]:
    """What is mounted, and what else /etc/fstab would mount."""
    uuids, labels = _names("uuid", root), _names("label", root)
    places: dict[str, Place] = {}
    for point, inside, source in (*_mounted(root), *_configured(root)):
        kind, _, value = source.partition("=")
        link = f"/dev/disk/by-{kind.lower()}/{value}" if value else source
        behind = resolve(link, root)
        device = behind if behind != link or not value else ""
        uuid = value if kind == "UUID" else uuids.get(device, "")
        label = value if kind == "LABEL" else labels.get(device, "")
        known = places.get(point)
        if known is None:
            places[point] = Place(point, inside, device, uuid, label)
        elif not known.uuid and not known.label:  # mounted, and /etc/fstab has its name
            places[point] = replace(known, uuid=uuid, label=label)
    return tuple(places.values())


def _mounted(root: str) -> Iterable[tuple[str, str, str]]:
    try:
        mounts = parse_mountinfo(read_text(MOUNTINFO, root=root) or "")
    except OSError:
        mounts = ()
    # Of mounts on top of each other the last is what is seen; automount points wait for what fstab names.
    for mount in reversed(mounts):
        if mount.source.startswith("/dev/"):
            yield mount.point, mount.root.rstrip("/"), mount.source
        elif mount.fstype == "zfs":
            yield mount.point, *_dataset(mount.source)


def _configured(root: str) -> Iterable[tuple[str, str, str]]:
    for row in fstab.read(root):
        if row.fstype == "zfs" and row.point.startswith("/"):
            yield row.point, *_dataset(row.source)
        elif row.point.startswith("/") and "bind" not in row.options:
            source = f"UUID={row.uuid}" if row.uuid else row.source.replace('"', "")
            yield row.point, row.subvolume.rstrip("/"), source


def _dataset(name: str) -> tuple[str, str]:
    """What GRUB's paths in a dataset begin with, and the name of its pool, which GRUB takes for a label."""
    pool, _, dataset = name.partition("/")
    return f"/{dataset}@", f"LABEL={pool}"


def _names(kind: str, root: str) -> dict[str, str]:
    """What /dev/disk/by-KIND calls the devices."""
    directory = f"/dev/disk/by-{kind}"
    try:
        names = os.listdir(join_root(root, directory))
    except OSError:
        return {}
    return {resolve(f"{directory}/{name}", root): name for name in names}
