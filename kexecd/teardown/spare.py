# SPDX-License-Identifier: MIT
"""Who is left alone on the way down: what the machine needs until the jump, and ourselves.

A daemon that the root filesystem needs cannot be asked to quit, because the next page of anybody's program may have to
come through it. Those that know it say so by an argv[0] that begins with "@" (https://systemd.io/ROOT_STORAGE_DAEMONS);
the others are found by what the root filesystem stands on: mountinfo, then /sys/dev/block downwards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from kexecd.kernel import mountinfo, proc
from kexecd.kernel.files import read_text
from kexecd.kernel.mountinfo import Kind, kind
from kexecd.model import Mount, Process

ROOTS = ("/", "/usr")
"""What everything that still runs has its programs on."""

FUSE_DEVICE = "/dev/fuse"
LAYERS = ("lowerdir=", "upperdir=", "workdir=")

NETWORK = frozenset(("dhcpcd", "wpa_supplicant"))
"""Take the address, or the link, with them when they quit."""

ISCSI = frozenset(("iscsid", "iscsiuio")) | NETWORK
ISCSI_SESSION = re.compile(r"/session\d+/")  # in the path of a disk below /sys/devices

_DEPTH = 16  # levels of block devices on block devices

_caller: Process | None = None
"""For whom this is done, where that is none of our ancestors."""

_servers: Servers | None = None
"""Of the last plan that was drawn up here."""

_marks: dict[tuple[int, int, str], bool] = {}
"""Who says of itself that it is needed, since then: to ask that takes longer than all else that a look asks. By number,
start and name, which is another one after an execve(2)."""

_helper: Process | None = None
"""What works for us, and is none of our descendants."""


@dataclass(frozen=True, slots=True)
class Servers:
    """What serves the root filesystem: processes by name or by number, and whoever speaks for a FUSE filesystem."""

    names: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    fuse: bool = False

    def joined(self, other: Servers) -> Servers:
        return Servers(self.names | other.names, self.pids | other.pids, self.fuse or other.fuse)


@dataclass(frozen=True, slots=True)
class Spare:
    """Kernel threads; PID 1; this process with its ancestors and all below it; and what serves the root filesystem.

    The ancestors, because whoever asked for the restart sees the events as long as possible, and shows them by itself:
    nobody waits for them, and with an init that has sessions they go with theirs. If a daemon was asked, also whoever
    asked it and that one's ancestors.
    """

    pids: frozenset[int]
    below: frozenset[int]  # ourselves and our descendants
    servers: Servers = Servers()

    @classmethod
    def ours(cls, mounts: Iterable[Mount] | None = None) -> Spare:
        global _servers  # noqa: PLW0603
        _marks.clear()
        _servers = serving(mountinfo.read() if mounts is None else mounts)
        return cls(frozenset(), frozenset(), _servers).renewed()

    @classmethod
    def again(cls) -> Spare:
        """The same for the steps of a plan, whose family has yet to be renewed(): what the root filesystem stands on
        is still what it was when the plan was drawn up."""
        return cls.ours() if _servers is None else cls(frozenset(), frozenset(), _servers)

    def renewed(self) -> Spare:
        """With the family as it is now: the root filesystem does not change, our workers do."""
        me = os.getpid()
        below = proc.descendants(me) | {me}
        pids = proc.ancestors(me) | _askers() | _helpers() | below | self.servers.pids | {1}
        return replace(self, pids=pids, below=below)

    def __call__(self, process: Process) -> bool:
        return (
            process.kernel_thread
            or process.pid in self.pids
            or process.ppid in self.below
            or process.name in self.servers.names
            or is_marked(process)
        )

    def serves(self, process: Process) -> bool:
        """Whether it is spared for what it does, and not for being one of us."""
        return process.pid not in self.below and (
            process.pid in self.servers.pids
            or process.name in self.servers.names
            or is_marked(process)
        )


def on_behalf_of(pid: int) -> None:
    """From now on this process works for `pid`, which is none of its ancestors."""
    global _caller  # noqa: PLW0603
    _caller = proc.read(pid)


def _askers() -> frozenset[int]:
    """Whoever has asked a daemon, as long as it is there, and its ancestors."""
    if _caller is None:
        return frozenset()
    now = proc.read(_caller.pid)
    return proc.ancestors(_caller.pid) if now and now.start == _caller.start else frozenset()


def helped_by(pid: int) -> None:
    """This process works for whoever goes down from here, and was started before that one was."""
    global _helper  # noqa: PLW0603
    _helper = proc.read(pid)


def _helpers() -> frozenset[int]:
    now = proc.read(_helper.pid) if _helper else None
    return frozenset((now.pid,)) if now and _helper and now.start == _helper.start else frozenset()


def is_marked(process: Process) -> bool:
    """Whether it says of itself that the root filesystem needs it; only of root that is believed."""
    who = process.pid, process.start, process.name
    if who not in _marks:
        _marks[who] = proc.argv0(process, 1) == "@" and proc.uid(process.pid) == 0
    return _marks[who]


def serving(mounts: Iterable[Mount], root: str = "/") -> Servers:
    """Who serves the root filesystem of this machine, or of a captured tree below `root`."""
    mounts = tuple(mounts)
    found, seen = Servers(), set[int]()
    waiting = [mount for point in ROOTS if (mount := _topmost(point, mounts))]
    while waiting:
        mount = waiting.pop()
        if mount.id in seen:
            continue
        seen.add(mount.id)
        found = found.joined(_of_filesystem(mount))
        paths = list(_layers(mount))
        for device in _devices(mount, root):
            found = found.joined(_of_device(device, root))
            paths += [_read(f"{device}/loop/backing_file", root)]
        waiting += [below for path in paths if path and (below := _lies_on(path, mounts))]
    if found.fuse and root == "/":
        found = replace(found, pids=found.pids | _speakers())
    return found


def _of_filesystem(mount: Mount) -> Servers:
    if mount.fstype == "fuseblk" or kind(mount) is Kind.FUSE:
        return Servers(fuse=True)
    if kind(mount) is not Kind.NETWORK:
        return Servers()
    names = set(NETWORK)
    if mount.fstype in ("nfs", "nfs4"):
        names |= {"rpc.statd"}
        if any(option.startswith("sec=krb5") for option in mount.super_options):
            names |= {"rpc.gssd"}
    return Servers(frozenset(names))


def _of_device(device: str, root: str) -> Servers:
    """device: its directory in /sys/devices."""
    if ISCSI_SESSION.search(device):
        return Servers(ISCSI)
    uuid = _read(f"{device}/dm/uuid", root)  # "LVM-...", "mpath-...", "CRYPT-LUKS2-..."
    names = set()
    if uuid.startswith("mpath-"):
        names = {"multipathd"}
    elif uuid.startswith("LVM-"):
        names = {"dmeventd"}  # extends a snapshot before it is full, and replaces a leg of a mirror
    elif _read(f"{device}/md/metadata_version", root).startswith("external:"):
        names = {"mdmon"}  # without it such an array takes no writes (mdmon(8))
    elif os.path.basename(device).startswith("nbd"):
        pid = _read(f"{device}/pid", root)
        return Servers(NETWORK, frozenset((int(pid),)) if pid.isdecimal() else frozenset())
    return Servers(frozenset(names))


def _devices(mount: Mount, root: str) -> Iterator[str]:
    """The block devices that a filesystem stands on, downwards, as directories of /sys/devices."""
    if kind(mount) is not Kind.DISK:
        return
    if mount.device.startswith("0:"):  # several devices behind one filesystem; the source is one of them
        name = os.path.basename(os.path.realpath(mount.source)) if root == "/" else os.path.basename(mount.source)
        first = f"/sys/class/block/{name}"
    else:
        first = f"/sys/dev/block/{mount.device}"
    waiting, seen = [(first, 0)], set[str]()
    while waiting:
        link, depth = waiting.pop()
        inside = root.rstrip("/")
        device = os.path.realpath(f"{inside}{link}").removeprefix(inside)
        if device in seen or depth > _DEPTH or not os.path.isdir(f"{inside}{device}"):
            continue
        seen.add(device)
        yield device
        waiting += [(f"{device}/slaves/{name}", depth + 1) for name in _list(f"{inside}{device}/slaves")]
        if os.path.exists(f"{inside}{device}/partition"):
            waiting.append((os.path.dirname(device), depth + 1))


def _speakers() -> frozenset[int]:
    """Who holds the FUSE device open: the daemons of FUSE filesystems, whichever is whose."""
    return frozenset(pid for pid in proc.pids() if any(path == FUSE_DEVICE for _, path in proc.open_files(pid)))


def _layers(mount: Mount) -> Iterator[str]:
    for option in mount.super_options if kind(mount) is Kind.STACKED else ():
        for name in LAYERS:
            if option.startswith(name):
                yield from (part for part in option.removeprefix(name).split(":") if part.startswith("/"))


def _topmost(point: str, mounts: Iterable[Mount]) -> Mount | None:
    return next((mount for mount in reversed(tuple(mounts)) if mount.point == point), None)


def _lies_on(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The mount that a path lies on; of those with the same point, the last."""
    above = [mount for mount in mounts if f"{path}/".startswith(f"{mount.point.rstrip('/')}/")]
    return max(above, key=lambda mount: (len(mount.point), mount.id), default=None)


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read(path: str, root: str) -> str:
    try:
        return (read_text(path, root=root) or "").strip()
    except OSError:
        return ""
