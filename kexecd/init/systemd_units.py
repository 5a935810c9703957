# SPDX-License-Identifier: MIT
"""The units of systemd: which of them run, in which order of classes they go, and the step that stops many at once.

Each systemctl costs a tenth of a second on a slow machine, so there is none to list, and one for each class to stop.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Generator, Iterable
from dataclasses import dataclass, field

from kexecd.errors import NotRestarted
from kexecd.init.systemd_bus import NotUnderstood, Unit, list_units
from kexecd.init.unit_files import Wishes
from kexecd.kernel import freezer, proc
from kexecd.kernel.cgroup import ROOTS
from kexecd.kernel.spawn import Finished, run, start
from kexecd.model import Context, Process, ProcessClass, Running, Wait
from kexecd.teardown.classes import MACHINES, MONITORS, Roll, by_group, quit_guests, unit_of
from kexecd.teardown.processes import KILL_RESERVE

SYSTEMCTL = ("/usr/bin/systemctl", "/bin/systemctl")
UNIT_TYPES = ("service", "scope", "socket", "timer", "path")
ACTIVE = ("active", "activating", "reloading")

BASICS = ("dbus", "dbus-broker", "systemd-journald", "systemd-udevd")
"""What other units talk to while they stop: services, most of them with sockets that would wake them again."""

DAEMON = "kexecd.service"
KEPT = ("init.scope", DAEMON)

GUEST_UNITS = (
    "docker.service docker.socket k3s.service k3s-agent.service kubelet.service libvirt-guests.service lxc.service"
    " incus.service incus.socket incus-startup.service nomad.service podman-restart.service pve-guests.service"
    " rke2-agent.service rke2-server.service snap.lxd.daemon.service vboxautostart-service.service xendomains.service"
).split()
"""What shuts guests down in good order when it is stopped, or would start them again. dockerd needs containerd for it,
so engines below go later, with the services."""

ENGINES = ("containerd", "crio", "docker", "cri-docker", "libvirtd", "virtqemud", "user@")
"""Have guests of theirs in their own control group, none of which goes because the unit does."""

LISTING = 2.0
"""Seconds for systemd to say whom it still waits for."""

ANSWERING = 10.0
"""Seconds for systemd to list its units; a busy one needs some."""

MANY = 100
"""Processes from which on it takes less to go through all control groups."""

HOLDING = 1.0
"""Seconds for PID 1 to stand still; it does at once, unless it is in the kernel."""

_NO_ORDER = "--job-mode=ignore-dependencies"


@dataclass(frozen=True, slots=True)
class Units:
    """The units that go, by the class that they go with."""

    guests: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    direct: tuple[str, ...] = ()  # services for whom a TERM to their processes is enough, and what starts services
    basics: tuple[str, ...] = ()
    ground: tuple[str, ...] = ()  # never stopped: what stands on it is closed by ourselves


def sort_out(units: Iterable[str], with_guests: Collection[str], ask: Callable[[str], Wishes]) -> Units:
    """`with_guests`: the units that a guest's own processes are in; without a guest they all are services."""
    guests = {unit for unit in with_guests if unit.endswith(".service") and not unit.startswith(ENGINES)}
    if with_guests:
        guests.update(GUEST_UNITS)
    kinds = ("guests", "sessions", "services", "direct", "basics", "ground")
    going: dict[str, list[str]] = {kind: [] for kind in kinds}
    for unit in units:
        if unit in KEPT:
            continue
        if is_basic(unit):
            going["basics"].append(unit)
        elif unit in guests:
            going["guests"].append(unit)
        elif (unit.startswith("session-") and unit.endswith(".scope")) or unit.startswith("user@"):
            going["sessions"].append(unit)
        elif not unit.endswith((".service", ".scope")):
            going["direct"].append(unit)
        elif (wishes := ask(unit)).ground:
            going["ground"].append(unit)
        else:
            going["services" if wishes.pid_1 else "direct"].append(unit)
    return Units(**{kind: tuple(names) for kind, names in going.items()})


@dataclass(frozen=True)
class StopUnits:
    """Stop units through PID 1, all at once and without their ordering.

    Through PID 1, so that nothing is started again and each unit's own ExecStop and KillSignal count; without ordering,
    because waiting for one another is what takes the time. systemctl waits for all of them, so nobody else has to.
    """

    name: str
    units: tuple[str, ...]
    grace: float  # seconds
    scan: Callable[[], Iterable[Process]] = field(default=proc.scan, repr=False)

    def describe(self) -> str:
        return f"have PID 1 stop {len(self.units)} units at once, {self.grace:g} s: {told(self.units)}"

    def run(self, context: Context) -> Running:
        if not self.units:
            return
        freezer.release()  # whoever walked before may have held PID 1, and then died
        until = min(context.now() + self.grace, context.deadline - KILL_RESERVE)
        done = yield from _waited(context, ["stop", _NO_ORDER, "--", *self.units], until)
        if done:
            for line in complaints(done):
                context.tell(line)
            return
        # Whoever was asked by PID 1 and did not go in time gets no second grace. What else is left of these units was
        # never asked, for one what a service with KillMode=process leaves behind.
        listed = yield from _waited(context, ["list-jobs", "--plain", "--no-legend"], context.now() + LISTING)
        stuck = jobs(listed.output) & set(self.units) if listed and not listed.exit_code else set[str]()
        who = _some(sorted(stuck)) if stuck else "nobody knows whom, PID 1 does not tell"
        context.tell(f"{self.name}: still stopping after {self.grace:g} s: {who}")
        context.asked.update((p.pid, p.start) for p in self.scan() if unit_of(proc.cgroup(p.pid)) in stuck)

    def undo(self) -> None:
        """Nothing: stopping is what the commit point is about."""


@dataclass(frozen=True)
class QuitGuests:
    """The units that shut guests down in good order; then, directly, the guests that nobody has shut down."""

    stop: StopUnits
    preview: tuple[Process, ...] = ()
    name: str = "guests"

    def describe(self) -> str:
        stop = f"{self.stop.describe()}; then " if self.stop.units else ""
        return f"{stop}ask each guest that is left to shut down, kill it after {self.stop.grace:g} s"

    def run(self, context: Context) -> Running:
        yield from self.stop.run(context)
        left = Roll((ProcessClass.GUEST,)).of(ProcessClass.GUEST)
        yield from quit_guests(context, left, self.stop.grace)

    def undo(self) -> None:
        """Nothing: stopping is what the commit point is about."""


@dataclass(frozen=True)
class HoldPid1:
    """Hold PID 1 still, so that it starts nothing again of what is quit from now on, and nobody has to wait for it."""

    instead: tuple[StopUnits, ...]  # where that fails after all
    name: str = "hold PID 1"

    def describe(self) -> str:
        return "hold PID 1 still, so that it starts nothing again"

    def run(self, context: Context) -> Running:
        try:
            freezer.hold()
            end = context.now() + HOLDING
            while not freezer.is_held() and context.now() < end:  # nothing becomes readable when it is
                yield Wait(frozenset(), context.now() + 0.002)
            if freezer.is_held():
                return
            freezer.release()
            why = f"it did not stand still within {HOLDING:g} s"
        except OSError as error:
            why = str(error)
        context.tell(f"PID 1 could not be held: {why}, so it has to stop the units by itself")
        for stop in self.instead:
            yield from stop.run(context)

    def undo(self) -> None:
        """Let it go on; it is only held after the commit point, but by whom is not this step's to know."""
        freezer.release()


def is_guest(process: Process, group: str) -> bool:
    """Whether it is a guest's own process, and not who watches over one: then the unit that it is in is the guest's."""
    return process.name.startswith(MACHINES) or (
        by_group(group) is ProcessClass.GUEST and not process.name.startswith(MONITORS)
    )


def groups_of(processes: Collection[Process]) -> dict[Process, str]:
    """The control group of each, as kexecd.kernel.proc.cgroup tells it.

    Of many it is read from the groups, which are some dozens, and not from each process; of those that are in none of
    the groups by then, as ever.
    """
    found = _members() if len(processes) >= MANY else {}
    return {process: found.get(process.pid) or proc.cgroup(process.pid) for process in processes}


def _members() -> dict[int, str]:
    """The group of every process that is in one, by pid (cgroups(7)); nothing where there is no such hierarchy."""
    root = next((root for root in ROOTS if os.path.exists(f"{root}/cgroup.procs")), "")
    found: dict[int, str] = {}
    waiting = [""] if root else []
    while waiting:
        path = waiting.pop()
        with contextlib.suppress(OSError, ValueError):  # it has gone, or has threads for members
            with os.scandir(f"{root}{path}") as entries:
                waiting += [f"{path}/{entry.name}" for entry in entries if entry.is_dir(follow_symlinks=False)]
            if path:
                with open(f"{root}{path}/cgroup.procs", encoding="ascii") as file:
                    found.update(dict.fromkeys(map(int, file), path))
    return found


def systemctl() -> tuple[str, ...]:
    """The command to start, as an absolute path: PATH may be anybody's."""
    for path in SYSTEMCTL:
        if os.access(path, os.X_OK):
            return (path, "--quiet", "--no-ask-password")
    raise NotRestarted("systemd runs as PID 1 but cannot be asked", f"there is no {SYSTEMCTL[0]}")


BOOT_TIME = ("systemd-", "kmod-static-nodes.service")
"""systemd's own units that have done their work at boot and run nothing: stopping them takes most of the time of all.
What is skipped: a line in utmp, and a second save of the random seed, which is renewed at boot already."""


def active_units() -> tuple[str, ...]:
    """Every unit that runs something or would start something. Raises NotRestarted if PID 1 does not answer."""
    try:
        units = list_units(ACTIVE, [f"*.{kind}" for kind in UNIT_TYPES], seconds=ANSWERING)
    except TimeoutError as error:
        raise NotRestarted("systemd does not tell its units", f"it did not answer within {ANSWERING:g} s") from error
    except (OSError, NotUnderstood):
        units = _listed()
    return tuple(unit.name for unit in units if not (unit.sub == "exited" and unit.name.startswith(BOOT_TIME)))


def _listed() -> list[Unit]:
    """The same by systemctl, which may know another way to PID 1."""
    command = [*systemctl(), "list-units", f"--type={','.join(UNIT_TYPES)}", f"--state={','.join(ACTIVE)}", "--plain"]
    finished: Finished = run([*command, "--no-legend", "--full", "--no-pager"], seconds=ANSWERING)
    if finished.exit_code:
        raise NotRestarted("systemd does not tell its units", finished.last_line)
    rows = [line.split(None, 4) for line in finished.output.splitlines() if line.strip()]
    return [Unit(row[0], row[2], row[3]) for row in rows]


def is_basic(unit: str) -> bool:
    """Whether a unit is one of BASICS, or a socket of one, such as systemd-journald-dev-log.socket."""
    stem = unit.rpartition(".")[0]
    return unit.endswith((".service", ".socket")) and any(stem == b or stem.startswith(f"{b}-") for b in BASICS)


def complaints(finished: Finished) -> tuple[str, ...]:
    """What `systemctl stop` could not do, but for units that have gone meanwhile or never let anybody stop them."""
    lines = finished.errors.splitlines() if finished.exit_code else []
    ours = (line for line in lines if line.startswith("Failed"))
    return tuple(line for line in ours if "refuse manual" not in line and "not loaded" not in line)


def jobs(listing: str) -> set[str]:
    """The units that are being stopped just now, by `systemctl list-jobs`: number, unit, what is done, how far."""
    return {words[1] for line in listing.splitlines() if len(words := line.split()) == 4 and words[3] == "running"}


def _waited(context: Context, words: list[str], until: float) -> Generator[Wait, frozenset[int], Finished | None]:
    """Run systemctl, at most until the clock is at `until`; None if it did not end."""
    command = start([*systemctl(), *words])
    ended = False
    try:
        while not ended and context.now() < until:
            ended = command.pidfd in (yield Wait(command.fds, until))
        return command.finish() if ended else None
    finally:
        if not ended:
            command.kill()


def told(units: Iterable[str], most: int = 8) -> str:
    """The first few of what runs among units, for a sentence."""
    return _some([unit.removesuffix(".service") for unit in units if unit.endswith((".service", ".scope"))], most)


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
