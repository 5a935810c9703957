# SPDX-License-Identifier: MIT
"""Who runs, who is logged in and what is mounted, at the moment a plan is made; and, for who reads the plan, more."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from kexecd.kernel import block, mountinfo, proc
from kexecd.kernel.block import Storage
from kexecd.kernel.files import read_text
from kexecd.model import Mount, Process, ProcessClass
from kexecd.teardown.classes import Classifier, unit_of
from kexecd.teardown.graph import Graph, build_from
from kexecd.teardown.spare import Spare

READING = 0.7
"""Seconds of CPU for the details of everybody; who is not come to is only counted."""

MOST_WRITING = 20
"""Files that are named of one process."""

WAITING_FOR_LOGIN = ("login", "sulogin")
"""At a terminal where nobody is, as whatever ends in "getty"."""


@dataclass(frozen=True, slots=True)
class Survey:
    processes: tuple[Process, ...] = ()  # those that would be asked to quit
    terminals: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    graph: Graph = Graph()  # of what is to be unmounted, detached and so on
    has_arrays: bool = False  # of md


@dataclass(frozen=True, slots=True)
class Occupant:
    """Somebody who would be asked to quit, for the people who decide about it."""

    process: Process
    process_class: ProcessClass
    user: str
    unit: str  # of systemd, or the service of OpenRC; empty where there is none
    memory: int  # bytes that are resident
    writing: tuple[str, ...]  # files that are open for writing, at most MOST_WRITING


def survey(root: str = "/") -> Survey:
    """This machine, or what a captured tree below `root` has of another one: its mounts."""
    if root != "/":
        mounts = mountinfo.parse(read_text("/proc/self/mountinfo", root=root) or "")
        return _survey((), mounts, block.storage(root))
    mounts = mountinfo.read()
    return _survey(running(mounts), mounts, block.storage())


def _survey(processes: tuple[Process, ...], mounts: tuple[Mount, ...], storage: Storage) -> Survey:
    has_arrays = any(device.is_md for device in storage.stacked)
    return Survey(processes, terminals(processes), mounts, build_from(mounts, storage), has_arrays)


def running(mounts: Iterable[Mount] | None = None) -> tuple[Process, ...]:
    """Everybody who would be asked to quit."""
    spare = Spare.ours(mounts)
    return tuple(process for process in proc.scan() if not spare(process))


def terminals(processes: Iterable[Process]) -> tuple[str, ...]:
    """Where somebody is logged in: the terminals of these processes, as paths.

    Not out of utmp(5), which musl and newer systemd do not keep, and in which every member of a group can name a device
    for us to write to.
    """
    devices = {
        process.terminal
        for process in processes
        if process.terminal and not process.name.endswith("getty") and process.name not in WAITING_FOR_LOGIN
    }
    return tuple(sorted(path for device in devices if (path := terminal_path(device))))


def terminal_path(device: int) -> str:
    """/dev/pts/3, /dev/tty1, by the device number of /proc/PID/stat; empty if there is none."""
    major, minor = os.major(device), os.minor(device)
    if 136 <= major <= 143:  # UNIX98_PTY_SLAVE_MAJOR in include/uapi/linux/major.h, and how many
        return f"/dev/pts/{(major - 136) * 256 + minor}"
    with contextlib.suppress(OSError):
        return f"/dev/{os.path.basename(os.readlink(f'/sys/dev/char/{major}:{minor}'))}"
    return ""


def occupants(processes: Iterable[Process], seconds: float = READING) -> tuple[Occupant, ...]:
    """Details of as many of `processes` as can be read in so many seconds of CPU, class by class."""
    import psutil  # late: 20 ms of CPU that only who looks at a plan needs

    end = time.process_time() + seconds
    classifier = Classifier.here()
    classes = tuple(ProcessClass)
    found = []
    sorted_out = sorted((classes.index(classifier(process)), process.pid, process) for process in processes)
    for number, pid, process in sorted_out:
        if time.process_time() >= end:
            break
        try:
            there = psutil.Process(pid)
            with there.oneshot():
                user, memory = there.username(), there.memory_info().rss
        except (psutil.Error, OSError):  # it has ended
            continue
        unit = unit_of(proc.cgroup(pid))
        found.append(Occupant(process, classes[number], user, unit, memory, writing(pid)))
    return tuple(found)


def writing(pid: int, most: int = MOST_WRITING) -> tuple[str, ...]:
    """The files that a process has open for writing, at most so many.

    Links are read and never followed, so a filesystem that does not answer is not asked. psutil.open_files() asks it.
    """
    files: dict[str, None] = {}
    for fd, path in proc.open_files(pid):
        if len(files) >= most:
            break
        kept = not path.startswith(("/dev/", "/proc/", "/memfd:")) and not path.endswith(" (deleted)")
        if kept and path not in files and proc.is_writing(pid, fd):
            files[path] = None
    return tuple(files)
