# SPDX-License-Identifier: MIT
"""Who keeps a mount or a device busy, for the person who has to know why something could not be closed.

One pass over /proc for everything that is stuck. Links are read and never followed, so a filesystem that does not
answer is not asked. What programs have mapped costs more to find out and takes the process's mmap lock, which beside a
process in uninterruptible sleep may never come: it is looked up last, only for what nobody has been found for, and
never of such a process. All of it still runs in a worker, since the kernel promises nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from kexecd.kernel import block, proc

MOST = 16
"""Holders that are looked for; a message names fewer."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is held: a mount point, or the name of a device; and its device number where files show it as theirs."""

    path: str
    device: str = ""  # major:minor


@dataclass(frozen=True, slots=True)
class Holder:
    """pid: 0 where the kernel itself holds it: a loop device, a swap file."""

    place: str
    pid: int
    name: str
    path: str  # by which; for a namespace, where it is mounted there
    how: str  # open, cwd, root, exe, mapped, namespace, loop, swap

    def __str__(self) -> str:
        match self.how:
            case "namespace":
                return f"still mounted at {self.path} in the mount namespace of process {self.pid} ({self.name})"
            case "loop":
                return f"{self.name} ({self.path})"
            case "swap":
                return f"swap ({self.path})"
            case "open" | "mapped":
                return f"{self.name} ({self.pid}, {self.path})"
            case _:
                return f"{self.name} ({self.pid}, {self.how} {self.path})"


def find(places: Iterable[Place], *, but_children_of: int = 0) -> tuple[Holder, ...]:
    """Each process once for each place that it holds, by the first thing that was found.

    but_children_of: a pid; what its children hold they have only inherited.
    """
    wanted = {place.path.rstrip("/") or "/": place for place in places}
    found: list[Holder] = [*_by_kernel(wanted)]
    processes = [p for p in proc.scan() if not p.kernel_thread and p.ppid != (but_children_of or -1)]
    for process in processes:
        seen = set[str]()
        for how, path in _links(process.pid):
            if (place := _place(path, wanted)) and place not in seen:
                seen.add(place)
                found.append(Holder(place, process.pid, process.name, path, how))
        if len(found) >= MOST * len(wanted):
            break
    if unexplained := {path: place for path, place in wanted.items() if path not in {held.place for held in found}}:
        devices = {place.device: path for path, place in unexplained.items() if place.device}
        for process in processes:
            if process.state != "D":
                for place, path in _mapped(process.pid, unexplained, devices).items():
                    found.append(Holder(place, process.pid, process.name, path, "mapped"))
    return tuple(found)


def encode(holders: Iterable[Holder]) -> str:
    """For the way out of a worker."""
    return json.dumps([list(asdict(holder).values()) for holder in holders])


def decode(text: str) -> tuple[Holder, ...]:
    return tuple(Holder(*fields) for fields in json.loads(text or "[]"))


def in_words(holders: Iterable[Holder], most: int = 3) -> str:
    """ "held by a (1, /x), b (2, /x) and 3 more"; empty for none."""
    every = tuple(holders)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return f"held by {', '.join(str(holder) for holder in every[:most])}{more}" if every else ""


def _by_kernel(wanted: dict[str, Place]) -> Iterator[Holder]:
    for loop in block.loops():
        if place := _place(loop.backing, wanted):
            yield Holder(place, 0, loop.device, loop.backing, "loop")
    for swap in block.swaps():
        if place := _place(swap.path, wanted):
            yield Holder(place, 0, swap.path, swap.path, "swap")


def _place(path: str, wanted: dict[str, Place]) -> str:
    """The deepest of the wanted places that `path` is in; empty for none."""
    while path not in wanted and path.strip("/"):
        path = path.rpartition("/")[0]
    return path if path in wanted else ""


def _links(pid: int) -> Iterator[tuple[str, str]]:
    directory = f"/proc/{pid}"
    try:
        names = [("open", f"fd/{name}") for name in os.listdir(f"{directory}/fd")]
    except OSError:
        names = []
    for how, name in (*names, ("cwd", "cwd"), ("root", "root"), ("exe", "exe")):
        try:
            path = os.readlink(f"{directory}/{name}")
        except OSError:  # it has ended, or is a kernel thread
            continue
        if path.startswith("/"):
            yield how, path


def _mapped(pid: int, wanted: dict[str, Place], devices: dict[str, str]) -> dict[str, str]:
    """Places that a process has files of in its memory, and one of those files for each; proc(5), /proc/PID/maps."""
    found: dict[str, str] = {}
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for line in file:
                fields = line.rstrip("\n").split(None, 5)
                if len(fields) < 6 or not fields[5].startswith("/"):
                    continue
                major, _, minor = fields[3].partition(":")
                path = fields[5].replace("\\012", "\n")
                place = _place(path, wanted) or devices.get(f"{int(major, 16)}:{int(minor, 16)}", "")
                if place:
                    found.setdefault(place, path)
    except (OSError, ValueError):  # it has ended, or is a kernel thread
        pass
    return found
