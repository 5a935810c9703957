# SPDX-License-Identifier: MIT
"""Leave every filesystem closed: unmounted from the leaves, read-only where it has to stay, its devices settled.

Nothing here asks a filesystem about itself: stat(2) or statfs(2) on a network or FUSE mount whose server is gone does
not return. umount2(2) does not look at what it unmounts, but it may have to write to it; so each runs in a worker.
What is on a disk is never forced and never detached lazily: that would only hide that it is still in use.

At worst, with a disk that does not answer, the way down ends this long after its deadline: what has to be written, and
kexecd.teardown.sync.WINDOW without progress; PATIENCE and 2 s once for unmounting and once for the read-only remount;
SETTLING and 1 s; 1 s to look at what is left. That is 34 s and the writing. A dead server costs 4 s of it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from kexecd.kernel import block, md, mountinfo, namespaces, sysrq
from kexecd.kernel.block import Stacked
from kexecd.kernel.mountinfo import Kind
from kexecd.kernel.namespaces import Namespace
from kexecd.model import Context, Mount, Running, Wait
from kexecd.teardown import holders, verdict
from kexecd.teardown.graph import Graph, Walk, build, build_from, going, unmount_call
from kexecd.teardown.holders import Holder, Place
from kexecd.teardown.verdict import Remains
from kexecd.teardown.workers import ENDED, Call, Outcome, Workers, left_behind

PARALLEL = 16
"""Calls at a time: enough to keep several disks busy, few enough that one disk is not made to seek between them."""

PATIENCE = 8.0
"""Seconds for one umount or remount; a healthy one that has to write back has been given its sync before."""

SIDE_BY_SIDE = 3.0
"""Seconds for a remount that is only to be ahead of the emergency remount."""

SETTLING = 2.0
"""Seconds for an md array to be marked clean: one write to each of its disks."""

PATIENCES = {
    # Nothing is left to be written to a server that answers: the sync before has seen to that.
    "umount-beyond": 2.0,
    "umount-network": 2.0,
    "umount-fuse": 2.0,
    "umount-memory": 2.0,
    "umount-force": 1.0,
    "umount-again": 1.0,
    "umount-lazy": 1.0,
    "fuse-abort": 1.0,
    "holders": 2.0,
    "md-settle": SETTLING + 1.0,
}

REMOTE = ("umount-network", "umount-fuse")

NAMED = 20
"""Things that a step's description names; the plan of 4,000 mounts is not to be a page."""

LINGERING = 0.1
"""Seconds that a filesystem may be in use after the last process with it has ended: the kernel drops what that had
mounted a moment later, and tells nobody (fs/namespace.c, delayed_mntput_work)."""

POINTS = 500
"""Mounts that are unmounted in another namespace by one call: what fits into a message to a worker."""

ReadMounts = Callable[[], tuple[Mount, ...]]
ReadNamespaces = Callable[[], tuple[Namespace, ...]]


def look() -> Graph:
    """What there is to take away now."""
    return build_from(mountinfo.read(), block.storage())


@dataclass(frozen=True, slots=True)
class Unmount:
    """Take away whatever has no reason to stay, from the leaves, several at a time (kexecd.teardown.graph)."""

    preview: Graph = Graph()
    look: Callable[[], Graph] = field(default=look, repr=False)
    others: ReadNamespaces = field(default=namespaces.others, repr=False)
    name: str = "unmount"

    def describe(self) -> str:
        doing = [str(call) for call in self.preview.calls]
        more = [f"and {len(doing) - NAMED} more"] if len(doing) > NAMED else []
        return ", ".join(doing[:NAMED] + more) if doing else "unmount: nothing but the root is mounted"

    def run(self, context: Context) -> Running:
        workers = Workers(PARALLEL, patience=PATIENCE, now=context.now, patiences=PATIENCES)
        hopeless: dict[Call, Outcome] = {}  # what did not answer, or was asked in every way, is not asked again
        waited = False
        try:
            while True:
                gone, stuck = yield from _take_down(self.look(), hopeless, workers, context)
                hopeless |= {call: end for call, end in stuck.items() if end.errno == ENDED or end.call != call}
                left = self._elsewhere()
                elsewhere = yield from self._unmount_elsewhere(left, workers, context)
                busy = stuck.keys() - hopeless.keys()
                if context.now() >= context.deadline or not (elsewhere or busy):
                    break
                if not (elsewhere or gone):
                    if waited:
                        break  # another round would end as this one did
                    waited = True
                    yield Wait(frozenset(), min(context.deadline, context.now() + LINGERING))
            yield from _tell_stuck(stuck, workers, context)
            if hanging := left_behind():
                context.tell(f"left behind, hanging in the kernel: {', '.join(map(str, hanging))}")
            for mount, namespace in self._elsewhere() if left else ():
                context.tell(f"could not unmount {mount.source}: it is {_holder_in(mount, namespace)}")
        finally:
            workers.close()

    def _unmount_elsewhere(
        self, left: list[tuple[Mount, Namespace]], workers: Workers, context: Context
    ) -> Generator[Wait, frozenset[int], bool]:
        """What is unmounted here but still mounted in other mount namespaces; whether anything went."""
        wanted: dict[str, tuple[Namespace, list[Call]]] = {}
        for mount, namespace in left:
            wanted.setdefault(namespace.door, (namespace, []))[1].append(unmount_call(mount))
        calls = []
        for door, (namespace, unmounts) in wanted.items():
            order = [call.arguments[0] for call in build(namespace.mounts).only(unmounts).order()]
            if order:
                calls.append(Call("umount-in", (door, *order[:POINTS])))
        outcomes = yield from workers.run(calls, context.deadline)
        return any(not outcome.errno for outcome in outcomes)

    def _elsewhere(self) -> list[tuple[Mount, Namespace]]:
        others = [other for other in self.others() if any(mountinfo.kind(mount) is Kind.DISK for mount in other.mounts)]
        return verdict.only_elsewhere(others, mountinfo.read()) if others else []

    def undo(self) -> None:
        """Nothing: it only runs after the commit point."""


def _take_down(
    graph: Graph, hopeless: Mapping[Call, Outcome], workers: Workers, context: Context
) -> Generator[Wait, frozenset[int], tuple[set[Call], dict[Call, Outcome]]]:
    """Make each call once, as soon as what has to go before it is gone; returns what went, and what did not."""
    walk, gone, stuck = Walk(graph), set[Call](), dict[Call, Outcome]()
    first: dict[Call, Call] = {}  # a second attempt -> the call that it is for
    todo = walk.start()
    while context.now() < context.deadline:
        for call in todo:
            if call in hopeless:
                stuck[call] = hopeless[call]
            else:
                workers.submit(call)
        todo = []
        if not workers.busy:
            for call in _unreachable(graph, walk, stuck):
                detach = Call("umount-lazy", call.arguments[:1], call.tag)
                first[detach] = call
                todo.append(detach)
            todo = todo or walk.rest(stuck)
            if not todo:
                break  # done, or each of those left carries one that did not go
            continue
        for outcome in workers.collect((yield workers.wait(context.deadline))):
            call = first.pop(outcome.call, outcome.call)
            if _is_done(outcome, call):
                gone.add(call)
                todo += walk.gone(call)
                if outcome.call.operation == "umount-lazy":  # and what was mounted on it went with it
                    went = [other for other in stuck if _is_unmount(other) and not _is_mounted(other)]
                    for other in went:
                        del stuck[other]
                        gone.add(other)
                        todo += walk.gone(other)
            elif harder := _harder(outcome, call, needed=walk.carries_mount(call)):
                if outcome.errno:
                    context.tell(f"could not {outcome.call}: {outcome.why}, {_how(harder)}")
                first[harder] = call
                todo.append(harder)
            else:
                stuck[call] = outcome
    return gone, stuck | {first.get(outcome.call, outcome.call): outcome for outcome in workers.give_up()}


def _unreachable(graph: Graph, walk: Walk, stuck: dict[Call, Outcome]) -> list[Call]:
    """Mounts of dead servers with something on them that no path leads to any more, because it leads through them.

    The one case in which a mount is detached with all that is on it. The kernel closes that as if it were unmounted,
    unless somebody holds it; and then kexecd.kernel.block.live() still tells.
    """
    lost = {call for call, outcome in stuck.items() if outcome.errno == ENDED}
    return [
        walk.leave(call)
        for call in walk.waiting
        if lost and call.operation in REMOTE and lost & set(graph.only([call]).calls)
    ]


def _is_done(outcome: Outcome, call: Call) -> bool:
    if not outcome.errno and outcome.call.operation != "fuse-abort":
        return True
    return _is_unmount(call) and _may_have_gone(outcome) and not _is_mounted(call)


def _harder(outcome: Outcome, call: Call, *, needed: bool) -> Call | None:
    """What is tried next for a mount that did not go: never for one on a disk.

    A forced umount lets a server's requests fail, and with them what was not written yet: only where the server has
    shown that it does not answer. A FUSE mount's processes have been told to quit before, so nobody reads it any more.
    needed: it is mounted on something that has to go, and so it is worth to be detached where it cannot be closed.
    """
    point = call.arguments[0]
    match outcome.call.operation:
        case "umount-network" if outcome.errno == ENDED:
            return Call("umount-force", (point,), call.tag)
        case "umount-fuse":
            return Call("fuse-abort", (call.arguments[1],), call.tag)
        case "fuse-abort":
            return Call("umount-again", (point,), call.tag)
        case "umount-network" | "umount-force" | "umount-again" | "umount-memory" if needed:
            return Call("umount-lazy", (point,), call.tag)
    return None


def _how(harder: Call) -> str:
    return {
        "umount-force": "letting its requests fail",
        "fuse-abort": "letting its requests fail",
        "umount-again": "trying again",
        "umount-lazy": "detaching it from its place",
    }[harder.operation]


def _is_unmount(call: Call) -> bool:
    return call.operation.startswith("umount")


def _may_have_gone(outcome: Outcome) -> bool:
    """Whether a umount that failed may have done its work all the same.

    One that does not return has often taken the mount away already, and waits for the server that was behind it. A
    daemon that was told to quit may have been faster than we were. But a disk that does not answer is not closed.
    """
    if outcome.errno == ENDED:
        return outcome.call.operation != "umount"
    return outcome.errno in (errno.EINVAL, errno.ENOENT) or outcome.call.operation == "fuse-abort"


def _is_mounted(call: Call) -> bool:
    return any(mount.id == call.tag for mount in mountinfo.read())


def _tell_stuck(
    stuck: Mapping[Call, Outcome], workers: Workers, context: Context
) -> Generator[Wait, frozenset[int], None]:
    """Name what did not go, and who holds it."""
    places = [Place(call.subject, _device(call)) for call in stuck if call.operation != "swapoff"]
    found = yield from find_holders(places, workers, context.now() + PATIENCES["holders"])
    for call, outcome in stuck.items():
        held = holders.in_words(holder for holder in found if holder.place == call.subject)
        context.tell(f"could not {call}: {outcome.why}{', ' if held else ''}{held}")


def find_holders(
    places: list[Place], workers: Workers, until: float
) -> Generator[Wait, frozenset[int], tuple[Holder, ...]]:
    """Who holds these; nobody, where it could not be found out in time."""
    if not places:
        return ()
    words = [word for place in places for word in (place.path, place.device)]
    outcomes = yield from workers.run([Call("holders", tuple(words))], until)
    return tuple(holder for outcome in outcomes if not outcome.errno for holder in holders.decode(outcome.text))


def _device(call: Call) -> str:
    if not _is_unmount(call):
        return ""
    return next((mount.device for mount in mountinfo.read() if mount.id == call.tag), "")


def _holder_in(mount: Mount, namespace: Namespace) -> str:
    return str(Holder(mount.point, namespace.pid, namespace.name, mount.point, "namespace"))


@dataclass(frozen=True, slots=True)
class ReadOnly:
    """Make every disk filesystem that is still there read-only; at once and by force when `forced`.

    The ordinary remount is refused while a file is open for writing. The kernel's emergency remount (sysrq u) is not:
    it syncs, completes the journal and turns writers away (fs/super.c, do_emergency_remount). It comes second: it goes
    from one disk to the next and waits for each, and of 16 disks with a head that takes 2.5 s. Where nobody was asked
    to quit the root is left to it at once, since somebody always writes there.
    """

    forced: bool = False
    preview: tuple[Mount, ...] = ()
    look: Callable[[], Remains] = field(default=verdict.look, repr=False)
    mounts: ReadMounts = field(default=mountinfo.read, repr=False)
    emergency: Callable[[], None] = field(default=sysrq.remount_read_only, repr=False)
    name: str = "read-only"

    def describe(self) -> str:
        points = ", ".join(mount.point for mount in mountinfo.writable_disks(self.preview)) or "nothing"
        if self.forced:
            return f"remount read-only at once, writers or not: {points}"
        leaving = {mount.id for mount in going(self.preview)}
        stays = [m.point for m in mountinfo.writable_disks(self.preview) if m.id not in leaving]
        return f"remount read-only what stays: {', '.join(stays) or 'nothing'}"

    def run(self, context: Context) -> Running:
        remains = self.look()
        calls, ahead, closed = [call for call, _ in _closing(remains)], list[Call](), set[Call]()
        if self.forced:
            # The emergency remount leaves a filesystem on several devices as it is (seen with Btrfs on 6.12).
            calls = [call for call, pooled in _closing(remains) if pooled]
            ahead = [call for call, pooled in _closing(remains) if not pooled and call.subject != "/"]
            calls += ahead if len(ahead) > 1 else []
        if calls:
            patience = SIDE_BY_SIDE if self.forced else PATIENCE
            workers = Workers(PARALLEL, patience=patience, now=context.now, patiences=PATIENCES)
            try:
                outcomes = yield from workers.run(calls, context.deadline)
            finally:
                workers.close()
            for outcome in outcomes:
                if outcome.errno and not (outcome.errno == errno.EBUSY and outcome.call in ahead):
                    context.tell(f"could not {outcome.call}: {outcome.why}, leaving it to the kernel")
            closed = {outcome.call for outcome in outcomes if not outcome.errno}
            if len(closed) < len(calls):  # another one may have closed what these could not
                remains = self.look()
        left = [call for call, _ in _closing(remains) if call not in closed]
        if left or any(live.writable for live in verdict.hidden(remains)):
            yield from self._force(context)

    def _force(self, context: Context) -> Generator[Wait, frozenset[int], None]:
        self.emergency()
        # Done by a kernel thread that announces nothing, so this is the one wait that has to look again and again.
        while mountinfo.writable_disks(self.mounts()) and context.now() < context.deadline:
            yield Wait(frozenset(), min(context.deadline, context.now() + 0.02))

    def undo(self) -> None:
        """Nothing: it only runs after the commit point."""


def _closing(remains: Remains) -> list[tuple[Call, bool]]:
    """What is still open: the call that closes it, and whether it is on several devices."""
    found = [
        (Call("remount-ro", (mount.point,)), mount.device.startswith("0:"))
        for mount in mountinfo.writable_disks(remains.mounts)
    ]
    for mount, namespace in verdict.only_elsewhere(remains.elsewhere, remains.mounts):
        if mount.writable:
            found.append((Call("remount-ro-in", (namespace.door, mount.point)), mount.device.startswith("0:")))
    return found


@dataclass(frozen=True, slots=True)
class Settle:
    """Wait until each md array that stays is marked clean on its disks; those that could go are stopped already."""

    stacked: Callable[[], tuple[Stacked, ...]] = field(default=block.stacked, repr=False)
    name: str = "settle"

    def describe(self) -> str:
        return f"let what stays of the md arrays be marked clean: {', '.join(d.name for d in self._arrays()) or 'none'}"

    def run(self, context: Context) -> Running:
        workers = Workers(PARALLEL, patience=PATIENCE, now=context.now, patiences=PATIENCES)
        try:
            calls = [Call("md-settle", (array.name, f"{SETTLING:g}")) for array in self._arrays()]
            for outcome in (yield from workers.run(calls, context.deadline)):
                if outcome.errno:
                    context.tell(f"could not {outcome.call}: {outcome.why}; its next start checks it")
        finally:
            workers.close()

    def _arrays(self) -> list[Stacked]:
        """Not those that are resynchronised just now: they are not clean before that is done, hours from now maybe."""
        return [d for d in self.stacked() if d.is_md and not d.resyncing and d.state not in md.SETTLED]

    def undo(self) -> None:
        """Nothing: it only waits."""
