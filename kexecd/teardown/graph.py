# SPDX-License-Identifier: MIT
"""What has to go before what: mounts on mounts, overlays on their layers, loop devices and swap on their files.

Pure: mounts, loops and swap in, a graph out. Its nodes are the calls that take something away; one that nothing waits
for any more can be made, and any number of those at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from kexecd.kernel.block import Loop, Swap
from kexecd.kernel.mountinfo import Kind, kind
from kexecd.model import Mount
from kexecd.teardown.workers import Call

KEPT = frozenset(("/", "/usr"))
"""Mount points that what still runs has its programs on: read-only is as far as these come."""

EXITRD = "/run/initramfs"
"""Where the initramfs leaves what detaches the root filesystem (https://systemd.io/INITRD_INTERFACE)."""

LAYERS = ("lowerdir=", "upperdir=", "workdir=")


@dataclass(frozen=True, slots=True)
class Graph:
    """before: each thing to take away, and what has to go before it."""

    before: Mapping[Call, frozenset[Call]] = field(default_factory=dict)

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(self.before)

    def ready(self, waiting: Iterable[Call], gone: Set[Call]) -> list[Call]:
        """Those of `waiting` whose predecessors are all gone."""
        return [call for call in waiting if self.before[call] <= gone]


def going(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """The mounts to be unmounted: what could lose something and nothing runs from, and all that is mounted on it."""
    chosen: dict[int, Mount] = {}
    for mount in mounts:  # a mount comes after the one that it was mounted on
        if mount.point in KEPT or mount.point.startswith(EXITRD):
            continue
        if mount.parent in chosen or kind(mount) not in (Kind.KERNEL, Kind.VOLATILE):
            chosen[mount.id] = mount
    return tuple(chosen.values())


def build(mounts: tuple[Mount, ...], loops: tuple[Loop, ...] = (), swaps: tuple[Swap, ...] = ()) -> Graph:
    """The graph of what is mounted and in use now. Swap on a partition is left alone: it pins nothing."""
    unmounts = {mount.id: Call("umount", (mount.point,), tag=mount.id) for mount in going(mounts)}
    swapoffs = {Call("swapoff", (swap.path,)): swap.path for swap in swaps if swap.is_file}
    detaches = {Call("loop-detach", (loop.device,)): loop for loop in loops}
    before: dict[Call, set[Call]] = {call: set() for call in (*swapoffs, *unmounts.values(), *detaches)}

    def needs(path: str, call: Call) -> None:
        """Whatever `path` lies on goes after `call`."""
        below = holder(path, mounts)
        if below and below.id in unmounts:
            before[unmounts[below.id]].add(call)

    for mount in mounts:
        if mount.id not in unmounts:
            continue
        if mount.parent in unmounts:
            before[unmounts[mount.parent]].add(unmounts[mount.id])
        for path in layers(mount):
            needs(path, unmounts[mount.id])
    for call, path in swapoffs.items():
        needs(path, call)
    for call, loop in detaches.items():
        before[call] |= {unmounts[m.id] for m in mounts if m.id in unmounts and m.source == loop.device}
        needs(loop.backing, call)
    return Graph({call: frozenset(others - {call}) for call, others in before.items()})


def holder(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The mount that a path lies on: the deepest one above it, and of those on one point the topmost."""
    best: Mount | None = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        above = path == mount.point or path.startswith(f"{point}/")
        if above and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def layers(mount: Mount) -> tuple[str, ...]:
    """The directories that an overlay is made of."""
    if kind(mount) is not Kind.STACKED:
        return ()
    found: list[str] = []
    for option in mount.super_options:
        for name in LAYERS:
            if option.startswith(name):
                found += [part for part in option.removeprefix(name).split(":") if part.startswith("/")]
    return tuple(found)
