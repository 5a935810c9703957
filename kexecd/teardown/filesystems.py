# SPDX-License-Identifier: MIT
"""Leave every filesystem clean: written back, unmounted from the leaves, read-only where it has to stay."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field

from kexecd.kernel import block, mountinfo, proc, sysfs
from kexecd.kernel.guard import forbid_in_tests
from kexecd.kernel.mountinfo import Kind
from kexecd.model import Context, Mount, Running, Verdict, Wait
from kexecd.teardown.graph import Graph, build, going
from kexecd.teardown.workers import Call, Outcome, Workers

PARALLEL = 8
"""Calls at a time: enough to keep several disks busy, few enough that one disk is not made to seek between them."""

PATIENCE = 8.0
"""Seconds for one umount or remount; a healthy one that has to write back has been given its sync before."""

SYNC_WINDOW = 10.0
"""Seconds without progress in Dirty and Writeback after which a sync is given up."""

ReadMounts = Callable[[], tuple[Mount, ...]]


def look() -> Graph:
    """What there is to take away now."""
    return build(mountinfo.read(), block.loops(), block.swaps())


class SyncStuck(Exception):
    """What is still to be written back stopped getting less."""


@dataclass(frozen=True, slots=True)
class Sync:
    """sync(2), for as long as it makes progress: pulling the rug at a fixed time is how files are lost."""

    early: bool = False  # beside the quitting of applications, so that little is left to write when they are gone
    name: str = "sync"

    def describe(self) -> str:
        return "start writing back what is dirty" if self.early else "write back everything, as long as it gets less"

    def run(self, context: Context) -> Running:
        workers = Workers(1, patience=float("inf"), now=context.now)
        workers.submit(Call("sync"))
        try:
            least, since = sysfs.writeback(), context.now()
            while workers.busy:
                until = min(context.deadline, since + SYNC_WINDOW) if self.early else since + SYNC_WINDOW
                if workers.collect((yield workers.wait(min(until, context.now() + 1.0)))):
                    continue
                if self.early and context.now() >= context.deadline:
                    return  # the one after the applications finishes the work
                left = sysfs.writeback()
                if left < least:
                    least, since = left, context.now()
                elif context.now() >= since + SYNC_WINDOW:
                    raise SyncStuck(f"{left >> 20} MiB were not written back, and none in the last {SYNC_WINDOW:g} s")
        finally:
            workers.close()

    def undo(self) -> None:
        """Nothing: written back is written back."""


@dataclass(frozen=True, slots=True)
class Unmount:
    """Take away whatever has no reason to stay, from the leaves, several at a time (kexecd.teardown.graph)."""

    preview: Graph = Graph()
    look: Callable[[], Graph] = field(default=look, repr=False)
    name: str = "unmount"

    def describe(self) -> str:
        doing = [describe_call(call) for call in self.preview.calls]
        return ", ".join(doing) if doing else "unmount: nothing but the root is mounted"

    def run(self, context: Context) -> Running:
        workers = Workers(PARALLEL, patience=PATIENCE, now=context.now)
        try:
            while True:
                gone, stuck = yield from _walk(self.look(), workers, context)
                if not (gone and stuck) or context.now() >= context.deadline:
                    break  # all done, or another round would end as this one did
            for outcome in stuck:
                context.tell(f"could not {describe_call(outcome.call)}: {outcome.why}{_holders(outcome.call)}")
        finally:
            workers.close()

    def undo(self) -> None:
        """Nothing: it only runs after the commit point."""


def _walk(
    graph: Graph, workers: Workers, context: Context
) -> Generator[Wait, frozenset[int], tuple[set[Call], list[Outcome]]]:
    """Make each call once, as soon as what has to go before it is gone; returns what went, and what did not."""
    waiting, gone, stuck = dict.fromkeys(graph.calls), set[Call](), list[Outcome]()
    while context.now() < context.deadline:
        for call in graph.ready(waiting, gone):
            del waiting[call]
            workers.submit(call)
        if not workers.busy:
            break  # done, or each of those left carries one that did not go
        for outcome in workers.collect((yield workers.wait(context.deadline))):
            if outcome.errno:
                stuck.append(outcome)
            else:
                gone.add(outcome.call)
    return gone, stuck + workers.give_up()


@dataclass(frozen=True, slots=True)
class ReadOnly:
    """Make every disk filesystem that is still there read-only; at once and by force when `forced`.

    The ordinary remount is refused while a file is open for writing. The kernel's emergency remount (sysrq u) is not:
    it syncs, completes the journal and turns writers away (fs/super.c, do_emergency_remount). It comes second, and
    first only where nobody was asked to quit.
    """

    forced: bool = False
    preview: tuple[Mount, ...] = ()
    mounts: ReadMounts = field(default=mountinfo.read, repr=False)
    name: str = "read-only"

    def describe(self) -> str:
        points = ", ".join(mount.point for mount in mountinfo.writable_disks(self.preview)) or "nothing"
        if self.forced:
            return f"remount read-only at once, writers or not: {points}"
        leaving = going(self.preview)
        stays = [m.point for m in mountinfo.writable_disks(self.preview) if m not in leaving]
        return f"remount read-only what stays: {', '.join(stays) or 'nothing'}"

    def run(self, context: Context) -> Running:
        if not self.forced:
            workers = Workers(PARALLEL, patience=PATIENCE, now=context.now)
            try:
                calls = [Call("remount-ro", (m.point,)) for m in mountinfo.writable_disks(self.mounts())]
                outcomes = yield from workers.run(calls, context.deadline)
            finally:
                workers.close()
            for outcome in outcomes:
                _tell_failure(context, outcome)
        if mountinfo.writable_disks(self.mounts()):
            emergency_remount()
            # Done by a kernel thread that announces nothing, so this is the one wait that has to look again and again.
            while mountinfo.writable_disks(self.mounts()) and context.now() < context.deadline:
                yield Wait(frozenset(), min(context.deadline, context.now() + 0.02))

    def undo(self) -> None:
        """Nothing: it only runs after the commit point."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Look at what is left, and judge whether something would be lost."""

    mounts: ReadMounts = field(default=mountinfo.read, repr=False)
    name: str = "verdict"

    def describe(self) -> str:
        return "read the mounts again: a disk that can still be written means no jump"

    def run(self, context: Context) -> Running:
        context.verdict = judge(self.mounts())
        yield from ()

    def undo(self) -> None:
        """Nothing: it only looks."""


def judge(mounts: Iterable[Mount]) -> Verdict:
    """What is left: writable disks are dirt, what lives elsewhere is residue."""
    mounts = tuple(mounts)
    dirt = tuple(f"{m.point} ({m.source}, {m.fstype}) is still writable" for m in mountinfo.writable_disks(mounts))
    residue = tuple(
        f"{m.point} ({m.source}, {m.fstype}) is still mounted"
        for m in mounts
        if mountinfo.kind(m) in (Kind.NETWORK, Kind.FUSE) and m.writable
    )
    return Verdict(dirt, residue)


def emergency_remount() -> None:
    """Ask the kernel to make every block device's filesystem read-only (Documentation/admin-guide/sysrq.rst, `u`)."""
    forbid_in_tests("remount everything read-only")
    fd = os.open("/proc/sysrq-trigger", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"u")
    finally:
        os.close(fd)


def describe_call(call: Call) -> str:
    """A call in words: "unmount /data"."""
    verb = {"umount": "unmount", "swapoff": "stop swapping to", "loop-detach": "detach"}[call.operation]
    return f"{verb} {call.arguments[0]}"


def _holders(call: Call, most: int = 3) -> str:
    if call.operation != "umount":
        return ""
    found = [f"{process.name} ({process.pid}, {path})" for process, path in proc.holders(call.arguments[0])]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f", held by {', '.join(found[:most])}{more}" if found else ""


def _tell_failure(context: Context, outcome: Outcome) -> None:
    if outcome.errno:
        context.tell(f"{outcome.call.arguments[0]} was not remounted read-only by itself: {outcome.why}")
