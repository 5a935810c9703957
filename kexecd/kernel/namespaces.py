# SPDX-License-Identifier: MIT
"""The mounts of other mount namespaces: there a filesystem stays in use, however often it is unmounted here.

mount_namespaces(7), proc(5). A namespace lives as long as a process is in it; one that only a bind mount of its file
pins is reached by taking that away (kexecd.teardown.graph).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kexecd.kernel import mountinfo, proc
from kexecd.model import Mount


@dataclass(frozen=True, slots=True)
class Namespace:
    """Another mount namespace, and one of the processes that live in it."""

    pid: int
    name: str
    mounts: tuple[Mount, ...]

    @property
    def door(self) -> str:
        return f"/proc/{self.pid}/ns/mnt"


def others() -> tuple[Namespace, ...]:
    """Every mount namespace but our own that a process is in, each once."""
    found: dict[str, Namespace] = {}
    own = os.readlink("/proc/self/ns/mnt")
    passed_over = set(map(str, proc.kernel_threads()))  # which have the one that the machine began with
    for pid in os.listdir("/proc"):
        if not pid.isdecimal() or pid in passed_over:
            continue
        try:
            link = os.readlink(f"/proc/{pid}/ns/mnt")
            if link != own and link not in found:
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="surrogateescape") as file:
                    name = file.read().rstrip("\n")
                found[link] = Namespace(int(pid), name, mountinfo.read(f"/proc/{pid}/mountinfo"))
        except OSError:  # it has ended, or is about to
            continue
    return tuple(found.values())
