# SPDX-License-Identifier: MIT
"""Whether the new kernel will find its root: the device that root= names, and the drivers on the way to it.

What root= may be: Documentation/admin-guide/kernel-parameters.rst, and dracut.cmdline(7), initramfs-tools(7) for what
an initrd understands. A device is looked for by what udev and sysfs say, and never opened. Which drivers it takes, the
machine that runs now shows: those on the way to that device, its filesystem's, and those of what it is stacked on. Of
these only such count as are modules now, since what is built into the running kernel has no name to look for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kexecd.kernel.block import Stacked
from kexecd.kernel.files import read_text, resolve
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Flaw

BY_TAG = {
    "UUID=": "/dev/disk/by-uuid",
    "LABEL=": "/dev/disk/by-label",
    "PARTUUID=": "/dev/disk/by-partuuid",
    "PARTLABEL=": "/dev/disk/by-partlabel",
}
TARGETS = {"CRYPT-": "dm_crypt", "LVM-": "dm_mod", "mpath-": "dm_multipath"}
"""Which module a device-mapper device takes, by how its UUID begins."""

LEVELS = {"raid4": "raid456", "raid5": "raid456", "raid6": "raid456"}


def root_device(facts: Facts) -> Iterator[Flaw]:
    target = facts.subject.target
    if facts.cmdline is None:
        return
    named = (facts.cmdline.value("root") or "").strip('"')
    if not named and target and not target.initrds and not facts.cmdline.has("root"):
        why = "the new kernel's command line has no root=, and there is no initrd that could know better"
        yield Flaw(why, "say it with --set root=..., or with ROOTPART in the configuration")
    elif named and _is_there(facts, named) is False:
        yield Flaw(f"there is no device that root={named} could mean", "compare it with what lsblk -f shows")


def root_driver(facts: Facts) -> Iterator[Flaw]:
    target = facts.subject.target
    version = facts.subject.version
    if target is None or not version or facts.cmdline is None:
        return
    builtin = _builtin(version, facts.system)
    needed = _needed(facts, block_name(facts, facts.cmdline.value("root") or ""))
    if not builtin or not needed:
        return
    lacking = needed - builtin
    if lacking and target.initrds:
        from kexecd.preflight.initrds import modules_in  # late: only where something is to be loaded

        found = modules_in(target.initrds, lacking)
        lacking = frozenset() if found is None else lacking - found
    if lacking:
        names = ", ".join(sorted(lacking))
        why = f"the root takes {names}: neither part of Linux {version} nor in its initrd"
        yield Flaw(why, "make the initrd again, with that driver in it")


def block_name(facts: Facts, named: str) -> str:
    """How sysfs calls the device of a root= or resume=; empty where that cannot be told."""
    for tag, directory in BY_TAG.items():
        if named.startswith(tag):
            wanted = _value(named, tag)
            link = next((name for name in facts.listing(directory) if _unescaped(name).lower() == wanted), "")
            return resolve(f"{directory}/{link}", facts.root).rpartition("/")[2] if link else ""
    if not named.startswith("/dev/"):
        return ""
    name = named.removeprefix("/dev/")
    label = name.removeprefix("mapper/")
    if stacked := next((one for one in facts.storage.stacked if label in (one.label, one.name)), None):
        return stacked.name
    return resolve(named, facts.root).rpartition("/")[2]


def _builtin(version: str, root: str) -> frozenset[str]:
    """What of a kernel could be a module and is none (Documentation/kbuild/kbuild.rst, modules.builtin); empty where it
    is not installed with its modules."""
    from kexecd.discover.pairs import MODULES  # late: only where something is to be loaded

    for path in MODULES:
        if text := read_text(f"{path}/{version}/modules.builtin", root=root):
            return frozenset(module_name(line.rpartition("/")[2]) for line in text.splitlines())
    return frozenset()


def _is_there(facts: Facts, named: str) -> bool | None:
    """Whether there is such a device now; None where that cannot be told."""
    for tag, directory in BY_TAG.items():
        if named.startswith(tag):
            present = {_unescaped(name).lower() for name in facts.listing(directory)}
            return _value(named, tag) in present if present else None
    if not named.startswith("/dev/"):
        return None
    known = facts.listing("/sys/class/block")
    name = named.removeprefix("/dev/")
    if name.startswith("disk/"):
        return facts.exists(named) if facts.listing("/dev/disk") else None
    if not known:
        return None
    if name.startswith("mapper/"):
        return facts.exists(named) or any(one.label == name.removeprefix("mapper/") for one in facts.storage.stacked)
    if name in ("root", "nfs", "ram0"):  # what means something to the kernel or to an initrd alone
        return None
    return name.replace("/", "!") in known or facts.exists(named)


def _needed(facts: Facts, name: str) -> frozenset[str]:
    """The modules that the running kernel uses for this device."""
    if not name or not facts.exists(f"/sys/class/block/{name}"):
        return frozenset()
    used: set[str] = set()
    left, seen = [name], set[str]()
    while left:
        device = left.pop()
        if device in seen:
            continue
        seen.add(device)
        stacked = next((one for one in facts.storage.stacked if device in one.names), None)
        if stacked:
            used |= _of_stacked(facts, stacked)
            left += stacked.below
        else:
            used |= _on_the_way(facts, device)
    numbers = {facts.read(f"/sys/class/block/{name}/dev")}
    used |= {mount.fstype for mount in facts.mounts if mount.device in numbers or mount.source == f"/dev/{name}"}
    return frozenset(module_name(module) for module in used) & facts.loaded_modules


def _of_stacked(facts: Facts, device: Stacked) -> set[str]:
    if not device.is_md:
        return {"dm_mod", *(module for prefix, module in TARGETS.items() if device.uuid.startswith(prefix))}
    level = facts.read(f"/sys/block/{device.name}/md/level")
    return {"md_mod", LEVELS.get(level, level)}


def _on_the_way(facts: Facts, device: str) -> set[str]:
    """The modules of every driver from the disk up to the root of the device tree (Documentation/driver-api)."""
    used = set()
    path = resolve(f"/sys/class/block/{device}", facts.root)
    while path.startswith("/sys/devices/"):
        for link in ("driver", "device/driver"):
            if facts.exists(f"{path}/{link}/module"):
                used.add(resolve(f"{path}/{link}/module", facts.root).rpartition("/")[2])
        path = path.rpartition("/")[0]
    return used


def module_name(file: str) -> str:
    """As the kernel calls it: with `_` for `-`, and without what its file's name ends in."""
    return file.partition(".ko")[0].replace("-", "_")


def _value(named: str, tag: str) -> str:
    value = named.removeprefix(tag).strip('"').lower()
    return value.partition("/partnroff=")[0] if tag == "PARTUUID=" else value


def _unescaped(name: str) -> str:
    """udev writes what may not stand in a file name as \\xNN (udev(7), OPTIONS)."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), name)
