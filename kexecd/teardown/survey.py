# SPDX-License-Identifier: MIT
"""Who runs, who is logged in and what is mounted, at the moment a plan is made."""

from __future__ import annotations

from dataclasses import dataclass

from kexecd.kernel import block, mountinfo, proc
from kexecd.kernel.files import read_text
from kexecd.model import Mount, Process
from kexecd.teardown.filesystems import look
from kexecd.teardown.graph import Graph, build
from kexecd.teardown.processes import Spare


@dataclass(frozen=True, slots=True)
class Survey:
    processes: tuple[Process, ...] = ()  # those that would be asked to quit
    terminals: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    graph: Graph = Graph()  # of what is to be unmounted, detached and so on


def survey(root: str = "/") -> Survey:
    """This machine, or what a captured tree below `root` has of another one: its mounts."""
    if root != "/":
        mounts = mountinfo.parse(read_text("/proc/self/mountinfo", root=root) or "")
        return Survey(mounts=mounts, graph=build(mounts, block.loops(root), block.swaps(root)))
    spare = Spare.ours()
    return Survey(
        processes=tuple(process for process in proc.scan() if not spare(process)),
        terminals=_terminals(),
        mounts=mountinfo.read(),
        graph=look(),
    )


def _terminals() -> tuple[str, ...]:
    import psutil  # late: 20 ms of CPU that only a plan needs

    return tuple(sorted({f"/dev/{user.terminal}" for user in psutil.users() if user.terminal}))
