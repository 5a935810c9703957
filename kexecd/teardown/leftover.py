# SPDX-License-Identifier: MIT
"""Whom KILL does not end, and why: what a person needs to find the server, the disk or the driver that is to blame.

A process cannot be killed while a thread of it sleeps in the kernel and may not be woken, as a rule for a device or a
server that does not answer; or while whoever traces it holds it at its exit (ptrace(2), PTRACE_O_TRACEEXIT).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kexecd.kernel import proc
from kexecd.model import Process

MOST = 8
"""Lines about those who are left behind; a dead server may hold thousands."""


def lines(processes: Iterable[Process], most: int = MOST) -> Iterator[str]:
    """One sentence for each that is still there, without a full stop."""
    there = [now for process in processes if (now := proc.read(process.pid)) and now.start == process.start]
    for process in there[:most]:
        yield f"left behind: {who(process)} cannot be killed, {why(process)}"
    if len(there) > most:
        yield f"left behind: {len(there) - most} more that cannot be killed: {names(there[most:])}"


def why(process: Process) -> str:
    """What keeps it, as far as the kernel tells."""
    for thread in proc.sleeping_threads(process.pid):
        where = proc.waits_on(process.pid, thread) or "a function that it does not tell"
        if thread == process.pid:
            return f"it sleeps in the kernel in {where}"
        return f"its thread {thread} sleeps in the kernel in {where}"
    status = proc.status(process.pid)
    if status and status.tracer:
        tracer = proc.read(status.tracer)
        return f"{who(tracer) if tracer else status.tracer} traces it and holds it"
    if process.state in "ZX":
        return f"its first thread has ended, but {process.threads - 1} more have not yet"
    return "it has not ended yet"


def who(process: Process) -> str:
    return f"{process.name} ({process.pid})"


def names(processes: Iterable[Process], most: int = 6) -> str:
    """Some of them by name, and how many more."""
    everyone = tuple(processes)
    named = ", ".join(who(process) for process in everyone[:most])
    return f"{named} and {len(everyone) - most} more" if len(everyone) > most else named or "nobody"
