# SPDX-License-Identifier: MIT
"""Look at what is left, and judge whether something would be lost: believe nothing that a step before has said."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from kexecd.kernel import block, md, mountinfo, namespaces, sysfs
from kexecd.kernel.block import Live, Stacked, Storage
from kexecd.kernel.mountinfo import Kind, kind
from kexecd.kernel.namespaces import Namespace
from kexecd.model import Context, Left, Mount, Running, Verdict
from kexecd.teardown import holders
from kexecd.teardown.graph import Devices
from kexecd.teardown.holders import Holder
from kexecd.teardown.workers import Call, Workers, left_behind

UNWRITTEN = 1 << 20
"""Bytes of Dirty and Writeback from which on they count: a few pages always are, of what the kernel does by itself."""

REMOTE = ("umount-network", "umount-fuse", "umount-force", "umount-again", "umount-lazy", "fuse-abort", "sync")
"""Calls that, when they do not return, wait for a server; sync(2) does when each disk has been written back."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What the machine is made of at the end."""

    mounts: tuple[Mount, ...] = ()
    elsewhere: tuple[Namespace, ...] = ()
    storage: Storage = Storage()
    live: tuple[Live, ...] = ()
    unwritten: int = 0  # bytes
    unfinished: tuple[Call, ...] = ()  # that hang in the kernel
    holders: tuple[Holder, ...] = ()


def look() -> Remains:
    # Each processor keeps a part of these counts to itself for a second: with many of them, MiB that are not there
    # (mm/vmstat.c). Reading this file adds them up.
    with contextlib.suppress(OSError), open("/proc/sys/vm/stat_refresh", "rb", buffering=0) as file:
        file.read()
    return Remains(
        mountinfo.read(), namespaces.others(), block.storage(), block.live(), sysfs.writeback(), left_behind()
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verify:
    look: Callable[[], Remains] = field(default=look, repr=False)
    name: str = "verdict"

    def describe(self) -> str:
        return "look at mounts, devices and swap again: a disk that can still be written means no jump"

    def run(self, context: Context) -> Running:
        remains = self.look()
        context.verdict = judge(remains)
        places = [word for mount in mountinfo.writable_disks(remains.mounts) for word in (mount.point, mount.device)]
        if places:
            workers = Workers(1, patience=1.0, now=context.now)
            try:
                outcomes = yield from workers.run([Call("holders", tuple(places))], context.deadline)
            finally:
                workers.close()
            found = tuple(holder for outcome in outcomes for holder in holders.decode(outcome.text))
            context.verdict = judge(replace(remains, holders=found))

    def undo(self) -> None:
        """Nothing: it only looks."""


def judge(remains: Remains) -> Verdict:
    """What is left: disks that can still change are dirt; what is closed or lives elsewhere is residue."""
    return Verdict(tuple(_dirt(remains)), tuple(_residue(remains)))


def _dirt(remains: Remains) -> Iterator[Left]:
    disks = mountinfo.writable_disks(remains.mounts)
    for mount in disks:
        held = tuple(str(holder) for holder in remains.holders if holder.place == mount.point)
        yield Left(_what(mount), "is still writable", held)
    seen = set[str]()
    for mount, namespace in only_elsewhere(remains.elsewhere, remains.mounts):
        if mount.writable and mount.device not in seen:
            seen.add(mount.device)
            inside = Holder(mount.point, namespace.pid, namespace.name, mount.point, "namespace")
            yield Left(f"{mount.source} ({mount.fstype})", f"is {inside}, and writable")
    for live in hidden(remains):
        if live.writable:
            yield Left(f"/dev/{live.name} ({live.fstype})", "is still open in the kernel, although mounted nowhere")
    for call in remains.unfinished:
        if call.operation not in REMOTE:
            yield Left(str(call), "did not return from the kernel")
    if remains.unwritten >= UNWRITTEN and not _remote(remains):
        yield Left(_size(remains.unwritten), "not written back")


def _residue(remains: Remains) -> Iterator[Left]:
    for mount in remains.mounts:
        if kind(mount) in (Kind.NETWORK, Kind.FUSE) and mount.writable:
            yield Left(_what(mount), "is still mounted")
    for live in hidden(remains):
        if not live.writable:
            yield Left(f"/dev/{live.name} ({live.fstype})", "is still open, read-only, although mounted nowhere")
    for call in remains.unfinished:
        if call.operation in REMOTE and call.arguments:
            yield Left(call.arguments[0], "does not let go: what is behind it does not answer")
    if remains.unwritten >= UNWRITTEN and _remote(remains):
        yield Left(_size(remains.unwritten), "for servers that do not answer, and nobody can save them any more")
    yield from (Left(swap.path, "is still swapped to") for swap in remains.storage.swaps if swap.is_file)
    devices = Devices((*remains.storage.loops, *remains.storage.stacked), remains.storage.pools)
    on_it = {device: mount.point for mount in reversed(remains.mounts) for device in devices.under(mount)}
    for device in devices.all:
        yield Left(device.device, _why(device) + (f", {on_it[device]} is on it" if device in on_it else ""))


def _why(device: object) -> str:
    if not (isinstance(device, Stacked) and device.is_md) or device.state in md.SETTLED:
        return "stays"
    if device.resyncing:
        return "goes on resynchronising after the restart"
    return "is not marked clean, so that its next start checks it"


def only_elsewhere(others: Iterable[Namespace], mounts: Iterable[Mount]) -> list[tuple[Mount, Namespace]]:
    """The disk filesystems that are mounted in other namespaces and not in ours, each mount of them."""
    here = {mount.device for mount in mounts}
    return [
        (mount, namespace)
        for namespace in others
        for mount in namespace.mounts
        if mount.device not in here and kind(mount) is Kind.DISK
    ]


def hidden(remains: Remains) -> list[Live]:
    """Disk filesystems that are open and mounted nowhere that can be seen."""
    mounts = (*remains.mounts, *(mount for mount, _ in only_elsewhere(remains.elsewhere, remains.mounts)))
    numbers = {mount.device for mount in mounts}
    names = {name for mount in mounts for name in block.device_names(mount.source)}
    labels = {device.name for device in remains.storage.stacked if device.label in names}
    pools = [pool for pool in remains.storage.pools if pool & (names | labels)]
    seen = {name for pool in pools for name in pool}
    return [live for live in remains.live if not live.numbers & numbers and live.name not in seen]


def _remote(remains: Remains) -> bool:
    """Whether something is left whose unwritten pages are nobody's but a server's."""
    return any(kind(mount) in (Kind.NETWORK, Kind.FUSE) and mount.writable for mount in remains.mounts) or any(
        call.operation in REMOTE for call in remains.unfinished
    )


def _what(mount: Mount) -> str:
    return f"{mount.point} ({mount.source}, {mount.fstype})"


def _size(count: int) -> str:
    return f"{count >> 20} MiB"
