# SPDX-License-Identifier: MIT
"""Who is asked to quit together with whom: guests, sessions, services, the rest.

The control group says it where an init or a container engine keeps one for each; elsewhere it is told by what a process
is. The names of the groups are those of systemd (https://systemd.io/CGROUP_DELEGATION, file-hierarchy of slices in
systemd.special(7)), OpenRC (sh/rc-cgroup.sh), elogind, Docker, Podman, CRI-O, containerd (CRI), libvirt, LXC and Incus.

A guest has a system of its own. Whoever watches over it from outside (a shim, conmon) is not who can shut it down: what
is asked is the PID 1 inside, and the others of the guest go with it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from kexecd.kernel import pidfd, proc
from kexecd.kernel.files import read_text
from kexecd.model import Context, Process, ProcessClass, Running
from kexecd.teardown.leftover import names
from kexecd.teardown.processes import Held, quit_found
from kexecd.teardown.spare import Spare

GUEST_GROUP = re.compile(
    r"/(machine\.slice|machine-[^/]+\.scope|qemu\.slice|lxc\.(?:payload|monitor)[./][^/]+|lxc/[^/]+|kubepods[^/]*"
    r"|(?:docker|libpod|crio|cri-containerd|nerdctl)-(?:conmon-|payload-)?[0-9a-f]{12,64}[^/]*"
    r"|(?:docker|libpod_parent|buildkit)/[^/]+|libpod-payload-[^/]+)(?:/|$)"
)
SESSION_GROUP = re.compile(r"/(?:user\.slice|session-[^/]+\.scope|user@\d+\.service)(?:/|$)")
SERVICE_GROUP = re.compile(r"/(?:[^/]+\.service|openrc\.[^/]+)(?:/|$)")
ELOGIND_GROUP = re.compile(r"/c?\d+(?:/|$)")  # a session's group is called by its number

MACHINES = (
    "qemu-system-", "qemu-kvm", "kvm", "firecracker", "cloud-hyperviso", "VBoxHeadless", "VirtualBoxVM", "crosvm",
)
"""The names, or how they begin, of programs that are a virtual machine; the kernel keeps 15 characters of a name."""

MONITORS = ("containerd-shim", "conmon", "lxc-start", "lxc-monitor", "[lxc monitor]", "systemd-nspawn", "crun", "runc")
"""Watch over a container, and end when it does."""

UID_MIN, UID_NOBODY = 1000, 65534
"""Where people begin unless login.defs(5) says otherwise, and who is nobody."""

MONITOR_GRACE = 1.0
"""Seconds that the monitors get, once their guests have ended, to clean up and end by themselves."""

HALT = signal.SIGRTMIN + 3
"""What systemd takes for a halt (systemd(1)); others do not block it, which is how it is told that it is systemd."""


def by_group(path: str) -> ProcessClass | None:
    """What a control group says of the processes in it; None if it says nothing."""
    if GUEST_GROUP.search(path):
        return ProcessClass.GUEST
    if SESSION_GROUP.search(path) or ELOGIND_GROUP.match(path):
        return ProcessClass.SESSION
    return ProcessClass.SERVICE if SERVICE_GROUP.search(path) else None


def unit_of(path: str) -> str:
    """The unit whose control group this is: the first service or scope of the path, or the service of OpenRC."""
    for part in path.split("/"):
        if part.endswith((".service", ".scope")) or part.startswith("openrc."):
            return part.removeprefix("openrc.")
    return ""


@dataclass(frozen=True, slots=True)
class Classifier:
    """Tells whose a process is. `namespace`: our own pid namespace; `uid_min`: where people begin."""

    namespace: str = ""
    uid_min: int = UID_MIN

    @classmethod
    def here(cls) -> Classifier:
        return cls(proc.pid_namespace("self"), uid_min())

    def __call__(self, process: Process) -> ProcessClass:
        return self.by_nature(process, by_group(proc.cgroup(process.pid)))

    def by_nature(self, process: Process, said: ProcessClass | None) -> ProcessClass:
        """`said`: what its control group says, which counts, but for a virtual machine that a unit runs."""
        if said is ProcessClass.GUEST or process.name.startswith((*MACHINES, *MONITORS)):
            return ProcessClass.GUEST
        if said:
            return said
        if self.namespace and (proc.pid_namespace(process.pid) or self.namespace) != self.namespace:
            return ProcessClass.GUEST
        if process.terminal or self.uid_min <= (proc.uid(process.pid) or 0) < UID_NOBODY:
            return ProcessClass.SESSION
        if process.ppid == 1 and process.session > 1:  # what it started is its own to end
            return ProcessClass.SERVICE
        return ProcessClass.REST


def uid_min(root: str = "/") -> int:
    """Of login.defs(5)."""
    try:
        text = read_text("/etc/login.defs", root=root) or ""
    except OSError:
        text = ""
    found = re.search(r"^\s*UID_MIN\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else UID_MIN


class Roll:
    """Everybody of some classes, read once, by the first step that asks: what came later is the last step's to find."""

    def __init__(self, classes: Collection[ProcessClass]) -> None:
        self._classes = classes
        self._members: dict[ProcessClass, list[Process]] | None = None

    def of(self, process_class: ProcessClass) -> tuple[Process, ...]:
        if self._members is None:
            spare, classifier = Spare.ours(), Classifier.here()
            self._members = {each: [] for each in self._classes}
            for process in proc.scan():
                if not spare(process) and (found := classifier(process)) in self._members:
                    self._members[found].append(process)
        return tuple(self._members.get(process_class, ()))


class Members:
    """Finds these processes, as long as they are there (kexecd.teardown.processes.Find)."""

    fleeting = 0

    def __init__(self, processes: Iterable[Process]) -> None:
        self._processes = tuple(processes)

    def __call__(self, held: Collection[int], known: Collection[int]) -> Iterator[Held]:
        del known
        for process in self._processes:
            if process.pid not in held and (fd := pidfd.open(process.pid)) is not None:
                now = proc.read(process.pid)
                if now and now.start == process.start:
                    yield fd, now
                else:
                    os.close(fd)

    def stop(self) -> None:
        """Nobody: newcomers are not looked for here."""


@dataclass(frozen=True)
class QuitClass:
    """TERM to everybody of a class, KILL to whoever is still there after the grace; other classes go on meanwhile."""

    process_class: ProcessClass
    grace: float  # seconds
    preview: tuple[Process, ...] = ()  # who it would be now, for describe()
    roll: Roll | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.process_class}s"

    def describe(self) -> str:
        who = names(self.preview)
        return f"ask each {self.process_class} to quit, kill what is left after {self.grace:g} s ({who})"

    def run(self, context: Context) -> Running:
        members = (self.roll or Roll((self.process_class,))).of(self.process_class)
        if self.process_class is ProcessClass.GUEST:
            yield from quit_guests(context, members, self.grace)
        else:
            yield from quit_found(context, Members(members), self.grace)

    def undo(self) -> None:
        """Nothing: a TERM cannot be unsent, which is why it only runs after the commit point."""


def quit_guests(context: Context, members: Iterable[Process], grace: float) -> Running:
    """The guests first, then those that watched over them."""
    members = tuple(members)
    monitors = tuple(process for process in members if process.name.startswith(MONITORS))
    inside = tuple(process for process in members if process not in monitors)
    yield from quit_found(context, Members(inside), grace, signal_in_guest())
    yield from quit_found(context, Members(monitors), MONITOR_GRACE, lambda process: 0)


def signal_in_guest() -> Callable[[Process], int]:
    """How a process of a guest is asked: its PID 1 with what that takes for a shutdown, and the others through it.

    A PID 1 that has no handler is deaf to everything but KILL (pid_namespaces(7)): then the others are asked, each, and
    where there are none nobody could save anything.
    """
    deaf: set[str] = set()

    def choose(process: Process) -> int:
        status = proc.status(process.pid)
        if status is None:
            return 0
        if len(status.pids) == 1:  # not in a container: a virtual machine
            return signal.SIGTERM
        namespace = proc.pid_namespace(process.pid)
        if status.pids[-1] != 1:
            return signal.SIGTERM if namespace in deaf else 0
        if status.blocked >> (HALT - 1) & 1:
            return HALT
        if process.name == "init" and status.hears(signal.SIGPWR):
            return signal.SIGPWR  # to busybox's, TERM means a reboot
        if not status.hears(signal.SIGTERM):
            deaf.add(namespace)
            return signal.SIGTERM if proc.descendants(process.pid) else signal.SIGKILL
        return signal.SIGTERM

    return choose
