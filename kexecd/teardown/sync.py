# SPDX-License-Identifier: MIT
"""Writing back what is dirty, for as long as it gets less.

Each disk filesystem by a syncfs(2) of its own, side by side, and beside them sync(2) for what is no filesystem of
ours: sync(2) alone goes from one filesystem to the next and waits for each, so one dead disk or server would keep it
from all those behind.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from kexecd.kernel import mountinfo, sysfs
from kexecd.kernel.descriptors import readable
from kexecd.model import Context, Mount, Running
from kexecd.teardown import spare
from kexecd.teardown.graph import Graph, Walk
from kexecd.teardown.workers import Call, Workers, hire_ahead

PARALLEL = 32
"""Filesystems at a time: the flusher threads of the kernel write to all disks at once anyway, here is only waited."""

WINDOW = 10.0
"""Seconds without progress after which a disk is given up."""

REST_WINDOW = 2.0
"""The same when the disks are done and only servers are not: theirs count as Dirty for ever once one has gone."""

EARLY = 8 << 20
"""Bytes from which on it is worth beginning early."""

PROGRESS = 1 << 20
"""Bytes by which Dirty and Writeback have to fall in that time: with less, the disk would need days."""

LOOK = 0.25
"""Seconds between two looks at Dirty and Writeback, which nothing can be waited for."""

PIPELINE = 0.1
"""Seconds after which those that are written are closed while the others still write."""

LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""What syncfs(2) says when something could not be written. Other errors are about the way to a mount, which may be a
file or hidden under another one; sync(2) knows its filesystem all the same."""


_ahead = -1
"""A pidfd of the process that begin_ahead() has started."""


class SyncStuck(Exception):
    """What is still to be written back stopped getting less."""


def begin_ahead(unwritten: Callable[[], int] = sysfs.writeback) -> None:
    """Have every disk begin at once, and wait for none: sync(2) wakes the flusher threads of all of them first.

    For a restart that is wanted at once, before there is a plan: to draw it up takes as long as a disk takes to write
    megabytes. If it is refused, what is dirty has only been written a little earlier.
    """
    global _ahead  # noqa: PLW0603
    if unwritten() < EARLY:
        return
    try:
        pid = os.fork()
    except OSError:  # a head start is no reason to refuse anything
        return
    if pid == 0:
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.closerange(0, 1 << 20)  # whoever reads from the caller's streams waits for their end
            os.sync()
        finally:
            os._exit(0)
    _ahead = os.pidfd_open(pid)
    spare.helped_by(pid)


@dataclass(frozen=True, slots=True)
class Sync:
    """Not bounded by the clock alone: pulling the rug at a fixed time is how files are lost.

    ahead: what is to be unmounted next. What is a leaf of it goes as soon as it is written, while slower disks still
    write; what does not go that way is asked again by Unmount, which says why it does not.
    """

    early: bool = False  # beside the quitting of applications, so that little is left to write when they are gone
    ahead: Callable[[], Graph] | None = field(default=None, repr=False)
    mounts: Callable[[], tuple[Mount, ...]] = field(default=mountinfo.read, repr=False)
    unwritten: Callable[[], int] = field(default=sysfs.writeback, repr=False)
    name: str = "sync"

    def describe(self) -> str:
        return "start writing back what is dirty" if self.early else "write back everything, as long as it gets less"

    def run(self, context: Context) -> Running:
        if self.early and (self.unwritten() < EARLY or _is_under_way()):
            hire_ahead(min(PARALLEL, 1 + len(mountinfo.writable_disks(self.mounts()))))
            return
        workers = Workers(PARALLEL, patience=float("inf"), now=context.now)
        try:
            workers.submit(Call("sync"))
            for mount in mountinfo.writable_disks(self.mounts()):
                workers.submit(Call("syncfs", (mount.point,)))
            least, since = self.unwritten(), context.now()
            leaves: dict[str, Call] | None = None
            written, begin = set[str](), since
            while workers.busy:
                if self.ahead and leaves is None and written and context.now() >= begin + PIPELINE:
                    leaves = {call.subject: call for call in Walk(self.ahead()).start() if call.operation == "umount"}
                for call in [leaves.pop(point) for point in written & leaves.keys()] if leaves else ():
                    workers.submit(call)
                disks = [call.subject for call in workers.under_way if call.operation in ("syncfs", "umount")]
                if self.early and (not disks or context.now() >= context.deadline):
                    return  # the one after the applications finishes the work
                end = since + (WINDOW if disks else REST_WINDOW)
                look = PIPELINE if self.ahead and leaves is None else LOOK
                ended = workers.collect((yield workers.wait(min(end, context.now() + look))))
                for outcome in ended:
                    if outcome.call.operation == "syncfs" and not outcome.errno:
                        written.add(outcome.call.subject)
                    elif outcome.call.operation != "umount" and outcome.errno in LOST:
                        context.tell(f"could not {outcome.call}: {outcome.why}")
                left = self.unwritten()
                if ended or left <= least - PROGRESS:
                    least, since = left, context.now()
                elif context.now() < end:
                    continue
                elif self.early:
                    return
                elif disks:
                    raise SyncStuck(f"{_size(left)} not written back, and none in {WINDOW:g} s: {', '.join(disks)}")
                else:
                    context.tell(f"{_size(left)} not written back by servers that do not answer, going on without")
                    return
        finally:
            workers.close()

    def undo(self) -> None:
        """Nothing: written back is written back."""


def _is_under_way() -> bool:
    """Whether one is not done: another one beside it costs each disk one more flush, and writes nothing."""
    return _ahead >= 0 and not readable(_ahead, 0.0)


def _size(count: int) -> str:
    return f"{count >> 20} MiB were" if count >= 1 << 20 else f"{count >> 10} KiB were"
