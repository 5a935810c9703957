# SPDX-License-Identifier: MIT
"""What has to go before what: mounts on mounts, overlays on their layers, loop devices and swap on their files, devices
on devices.

Pure: mounts, devices and swap in, a graph out. Its nodes are the calls that take something away; one that nothing waits
for any more can be made, and any number of those at the same time. Costs O(n log n) for n mounts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from kexecd.kernel.block import Loop, Stacked, Storage, Swap, device_names
from kexecd.kernel.mountinfo import Kind, fuse_connection, kind, unescape
from kexecd.model import Mount
from kexecd.teardown.workers import Call

KEPT = frozenset(("/", "/usr"))
"""Mount points that what still runs has its programs on: read-only is as far as these come."""

EXITRD = "/run/initramfs"
"""Where the initramfs leaves what detaches the root filesystem (https://systemd.io/INITRD_INTERFACE)."""

SYSTEM = ("/dev", "/proc", "/run", "/sys")
"""What is in memory here belongs to the machine, not to its users."""

LISTS, SINGLE = ("lowerdir=",), ("upperdir=", "workdir=", "lowerdir+=", "datadir+=")
"""An overlay's options (Documentation/filesystems/overlayfs.rst): directories with colons between, and one each."""

EXTRA_DEVICES = ("logdev=", "rtdev=", "journal_path=")
"""Options of xfs and ext4 that name a second device."""

_COLON = re.compile(r"(?<!\\):")


@dataclass(frozen=True, slots=True)
class Graph:
    """before: each thing to take away, and what has to go before it.

    kept: the devices that stay, because what stays is on them. by_path: those of `before`, as what goes later and what
    goes first, that nothing but a path says: it may have led elsewhere before something was mounted over it.
    """

    before: Mapping[Call, frozenset[Call]] = field(default_factory=dict)
    kept: tuple[Loop | Stacked, ...] = ()
    by_path: frozenset[tuple[Call, Call]] = frozenset()

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(self.before)

    def only(self, wanted: Iterable[Call]) -> Graph:
        """What is left of the graph when nothing but `wanted` has to go: those, and what has to go before them."""
        found, todo = set[Call](), [call for call in wanted if call in self.before]
        while todo:
            call = todo.pop()
            if call not in found:
                found.add(call)
                todo += self.before[call]
        before = {call: others for call, others in self.before.items() if call in found}
        return Graph(before, self.kept, self.by_path)

    def order(self) -> list[Call]:
        """Every call, one after the other; without those that wait for each other in a circle."""
        walk = Walk(self)
        done: list[Call] = []
        todo = walk.start()
        while todo:
            done.append(todo.pop())
            todo += walk.gone(done[-1])
        return done


class Walk:
    """A graph on its way to nothing: which calls can be made, as others are done."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._missing = {call: len(others) for call, others in graph.before.items()}
        self._after: dict[Call, list[Call]] = defaultdict(list)
        for call, others in graph.before.items():
            for other in others:
                self._after[other].append(call)

    def start(self) -> list[Call]:
        """What nothing has to go before."""
        return self._leave([call for call, missing in self._missing.items() if not missing])

    def gone(self, call: Call) -> list[Call]:
        """What can be made now that `call` is done."""
        free = []
        for other in self._after.pop(call, ()):
            if other in self._missing:
                self._missing[other] -= 1
                if not self._missing[other]:
                    free.append(other)
        return self._leave(free)

    @property
    def waiting(self) -> tuple[Call, ...]:
        return tuple(self._missing)

    def leave(self, call: Call) -> Call:
        """Make a call although something has to go before it."""
        return self._leave([call])[0]

    def carries_mount(self, call: Call) -> bool:
        """Whether another mount waits for this one."""
        return any(other.operation.startswith("umount") for other in self._after.get(call, ()))

    def rest(self, stuck: Iterable[Call]) -> list[Call]:
        """What is still worth a try when nothing else can be made.

        A swap file only wishes that those of memory went before it. What waits for each other in a circle, but not for
        anything that is `stuck`, does so because of a path: a loop device's file is called by a name that leads into
        what was mounted over it. So what waits for nothing but paths is first. Last, all at once: to unmount in a wrong
        order does no harm, the kernel knows better and says EBUSY.
        """
        if wishes := [call for call in self._missing if call.operation == "swapoff"]:
            return self._leave(wishes)
        todo = list(stuck)
        while todo:
            for other in self._after.pop(todo.pop(), ()):
                if self._missing.pop(other, None) is not None:
                    todo.append(other)
        if presumed := [call for call in self._missing if self._waits_for_paths(call)]:
            return self._leave(presumed)
        return self._leave([call for call in self._missing if call.operation.startswith("umount")])

    def _waits_for_paths(self, call: Call) -> bool:
        first = (other for other in self._graph.before[call] if other in self._missing)
        return all((call, other) in self._graph.by_path for other in first)

    def _leave(self, calls: list[Call]) -> list[Call]:
        for call in calls:
            del self._missing[call]
        return calls


class Tree:
    """The mounts of one namespace as the kernel has them: who is mounted on whom, and what is hidden."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self.children: dict[int, list[Mount]] = defaultdict(list)
        every = tuple(mounts)
        ids = {mount.id for mount in every}
        for mount in every:
            self.children[mount.parent if mount.parent in ids else -1].append(mount)
        self.ordered: list[Mount] = []  # parents first, which the file does not promise
        self.hiders: dict[int, tuple[Mount, ...]] = {}  # for each hidden mount, what has to go before it is seen
        self._top: dict[str, Mount] = {}
        self._beyond: set[int] = set()
        self._descend()

    def _descend(self) -> None:
        todo: list[tuple[int, tuple[Mount, ...]]] = [(-1, ())]
        while todo:
            parent, above = todo.pop()
            for mount, hider in _siblings(self.children.get(parent, [])):
                hiders = (*above, hider) if hider else above
                if hiders:
                    self.hiders[mount.id] = hiders
                else:
                    self._top[mount.point] = mount
                self.ordered.append(mount)
                if mount.id in self.children:
                    todo.append((mount.id, hiders))
                    if mount.id in self._beyond or kind(mount) in (Kind.NETWORK, Kind.FUSE):
                        self._beyond |= {child.id for child in self.children[mount.id]}

    def holder(self, path: str) -> Mount | None:
        """The mount that a path lies on: the deepest one above it, and of those on one point the topmost."""
        while path not in self._top and path.strip("/"):
            path = path.rstrip("/").rpartition("/")[0] or "/"
        return self._top.get(path)

    def is_beyond(self, mount: Mount) -> bool:
        """Whether the path to a mount leads through one whose server or daemon may not answer."""
        return mount.id in self._beyond

    def closure(self, chosen: Iterable[Mount]) -> dict[int, Mount]:
        """These, all that is mounted on them, and all that hides one of them, by id."""
        found: dict[int, Mount] = {}
        todo = list(chosen)
        while todo:
            mount = todo.pop()
            if mount.id not in found:
                found[mount.id] = mount
                todo += (*self.children.get(mount.id, ()), *self.hiders.get(mount.id, ()))
        return {mount.id: mount for mount in self.ordered if mount.id in found}


def _siblings(mounts: list[Mount]) -> Iterator[tuple[Mount, Mount | None]]:
    """Mounts on one parent, each with the one of them that hides it: what was mounted later further up."""
    if len(mounts) == 1:
        yield mounts[0], None
        return
    above: list[tuple[str, Mount]] = []
    for mount in sorted(mounts, key=lambda mount: f"{mount.point.rstrip('/')}/"):
        key = f"{mount.point.rstrip('/')}/"
        while above and (not key.startswith(above[-1][0]) or key == above[-1][0]):
            above.pop()
        yield mount, above[-1][1] if above else None
        above.append((key, mount))


def going(mounts: Iterable[Mount], *, memory: bool = False) -> tuple[Mount, ...]:
    """The mounts to be unmounted: what could lose something and nothing runs from, and all that is mounted on it.

    memory: also the users' tmpfs, whose pages may be in a swap file that has to go.
    """
    tree = Tree(mounts)
    return tuple(tree.closure(_chosen(tree, memory=memory)).values())


def _chosen(tree: Tree, *, memory: bool) -> Iterator[Mount]:
    for mount in tree.ordered:
        if mount.point in KEPT or _below(mount.point, EXITRD):
            continue
        match kind(mount):
            case Kind.VOLATILE:
                if memory and mount.fstype == "tmpfs" and not any(_below(mount.point, top) for top in SYSTEM):
                    yield mount
            case Kind.KERNEL:
                # What pins a mount namespace pins every filesystem that is mounted in it.
                if mount.fstype == "nsfs" and mount.root.startswith("mnt:"):
                    yield mount
            case _:
                yield mount


def build(
    mounts: Iterable[Mount],
    loops: tuple[Loop, ...] = (),
    swaps: tuple[Swap, ...] = (),
    stacked: tuple[Stacked, ...] = (),
    pools: tuple[frozenset[str], ...] = (),
) -> Graph:
    """The graph of what is mounted and in use now. Swap on a partition is left alone: it pins nothing."""
    tree = Tree(mounts)
    files = tuple(swap for swap in swaps if swap.is_file)
    leaving = tree.closure(_chosen(tree, memory=any(swap.used for swap in files)))
    devices = Devices((*loops, *stacked), pools)
    kept = devices.below(
        (mount for mount in tree.ordered if mount.id not in leaving),
        (swap.path for swap in swaps if not swap.is_file),
    )
    # What holds the root's own loop file, or the layers of a root that is an overlay, cannot go either; nor can what
    # that is mounted on. (An overlay's layer could be unmounted all right, and would be as open as before.)
    todo = [tree.holder(device.backing) for device in kept if isinstance(device, Loop)]
    todo += [tree.holder(path) for mount in tree.ordered if mount.id not in leaving for path in layers(mount)]
    by_id = {mount.id: mount for mount in tree.ordered}
    while todo:
        mount = todo.pop()
        if mount and leaving.pop(mount.id, None):
            todo.append(by_id.get(mount.parent))
            todo += [tree.holder(path) for path in layers(mount)]
            fresh = devices.below((mount,), ()) - kept
            kept |= fresh
            todo += [tree.holder(device.backing) for device in fresh if isinstance(device, Loop)]

    unmounts = {mount.id: unmount_call(mount) for mount in leaving.values()}
    for mount in leaving.values():
        if tree.is_beyond(mount) and unmounts[mount.id].operation == "umount":
            unmounts[mount.id] = replace(unmounts[mount.id], operation="umount-beyond")
    before: dict[Call, set[Call]] = {call: set() for call in unmounts.values()}
    takedowns = {device: takedown_call(device) for device in devices.all if device not in kept}
    before |= {call: set() for call in takedowns.values()}

    by_path = set[tuple[Call, Call]]()

    def needs(path: str, call: Call) -> None:
        """Whatever `path` lies on goes after `call`."""
        below = tree.holder(path)
        if below and below.id in unmounts and (later := unmounts[below.id]) != call and call not in before[later]:
            before[later].add(call)
            by_path.add((later, call))

    for mount in leaving.values():
        call = unmounts[mount.id]
        if mount.parent in unmounts:
            before[unmounts[mount.parent]].add(call)
        before[call] |= {unmounts[hider.id] for hider in tree.hiders.get(mount.id, ()) if hider.id in unmounts}
        for path in layers(mount):
            needs(path, call)
        for device in devices.under(mount):
            if device in takedowns:
                before[takedowns[device]].add(call)
    for device, call in takedowns.items():
        for other in devices.directly_below(device):
            if other in takedowns:
                before[takedowns[other]].add(call)
        if isinstance(device, Loop):
            needs(device.backing, call)
    memory = {unmounts[m.id] for m in leaving.values() if m.fstype == "tmpfs"}
    for swap in files:
        call = Call("swapoff", (swap.path,))
        # Full of pages that would all have to be read back into memory, for nothing (and there may be no room).
        before[call] = set(memory) if swap.used else set()
        needs(swap.path, call)
    return Graph({call: frozenset(others) for call, others in before.items()}, tuple(kept), frozenset(by_path))


def build_from(mounts: Iterable[Mount], storage: Storage) -> Graph:
    return build(mounts, storage.loops, storage.swaps, storage.stacked, storage.pools)


def unmount_call(mount: Mount) -> Call:
    match kind(mount):
        case Kind.NETWORK:
            return Call("umount-network", (mount.point,), tag=mount.id)
        case Kind.FUSE:
            return Call("umount-fuse", (mount.point, fuse_connection(mount)), tag=mount.id)
        case Kind.KERNEL | Kind.VOLATILE:
            return Call("umount-memory", (mount.point,), tag=mount.id)
        case Kind.DISK | Kind.STACKED:
            return Call("umount", (mount.point,), tag=mount.id)


def takedown_call(device: Loop | Stacked) -> Call:
    if isinstance(device, Loop):
        return Call("loop-detach", (device.device,))
    return Call("md-stop", (device.device,)) if device.is_md else Call("dm-remove", (device.label,))


class Devices:
    """Loop devices, device-mapper devices and md arrays, found by whatever names them."""

    def __init__(self, every: tuple[Loop | Stacked, ...], pools: tuple[frozenset[str], ...]) -> None:
        # A container stays: it is only its members' metadata, and goes with the last of them in the next kernel's eyes.
        self.all = tuple(device for device in every if isinstance(device, Loop) or not device.is_container)
        self._pools = pools
        self._by_name: dict[str, Loop | Stacked] = {}
        self._by_number: dict[str, Loop | Stacked] = {}
        for device in self.all:
            self._by_name |= dict.fromkeys(device.names or {device.name}, device)
            self._by_number |= dict.fromkeys(device.numbers, device)
            if isinstance(device, Stacked) and device.label:
                self._by_name[device.label] = device

    def under(self, mount: Mount) -> frozenset[Loop | Stacked]:
        """What a filesystem is directly on."""
        found = {device} if (device := self._by_number.get(mount.device)) else set[Loop | Stacked]()
        if not self.all or not mount.source.startswith("/dev/"):
            return frozenset(found)
        names = set(device_names(mount.source))
        for part in mount.source.split(":"):  # bcachefs names all of its devices
            names |= set(device_names(part))
        if mount.fstype == "btrfs":
            known = {device.name for name in names if (device := self._by_name.get(name))} | names
            names = set[str]().union(names, *(pool for pool in self._pools if pool & known))
        for option in mount.super_options:
            if option.startswith(EXTRA_DEVICES):
                names |= set(device_names(unescape(option.partition("=")[2])))
        return frozenset(found.union(device for name in names if (device := self._by_name.get(name))))

    def directly_below(self, device: Loop | Stacked) -> frozenset[Loop | Stacked]:
        names = device.below if isinstance(device, Stacked) else device_names(device.backing)
        return frozenset(found for name in names if (found := self._by_name.get(name)))

    def below(self, mounts: Iterable[Mount], paths: Iterable[str]) -> set[Loop | Stacked]:
        """Everything that these filesystems, and the devices at these paths, stand on."""
        todo = [device for mount in mounts for device in self.under(mount)]
        todo += [found for path in paths for name in device_names(path) if (found := self._by_name.get(name))]
        every: set[Loop | Stacked] = set()
        while todo:
            device = todo.pop()
            if device not in every:
                every.add(device)
                todo += self.directly_below(device)
        return every


def layers(mount: Mount) -> tuple[str, ...]:
    """The directories that an overlay or an ecryptfs is made of."""
    if mount.fstype == "ecryptfs":
        return (mount.source,)
    if kind(mount) is not Kind.STACKED:
        return ()
    found: list[str] = []
    for option in mount.super_options:
        text = unescape(option)
        name, _, value = text.partition("=")
        if text.startswith(LISTS):
            found += [part.replace("\\:", ":").replace("\\\\", "\\") for part in _COLON.split(value)]
        elif f"{name}=" in SINGLE:
            found.append(value)
    return tuple(path for path in found if path.startswith("/"))


def _below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
