# SPDX-License-Identifier: MIT
"""systemd as PID 1. Everything goes over its private socket or by signal, so that no message bus has to be alive.

Signals (systemd(1)): SIGRTMIN+15 restarts and SIGRTMIN+16 kexecs at once, without stopping units. PID 1 becomes
systemd-shutdown, which kills what is left, unmounts, detaches storage (in the initramfs if it has to), keeps the
watchdog, and falls back to an ordinary restart by itself if the jump fails.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kexecd.errors import NotRestarted
from kexecd.kernel import proc
from kexecd.kernel.guard import forbid_in_tests
from kexecd.kernel.spawn import Finished, Spawned, run, start
from kexecd.model import Act, Context, Process, Running, Wait
from kexecd.plan import ServiceSteps
from kexecd.teardown.processes import KILL_RESERVE, Spare, Watched

SYSTEMCTL = ("/usr/bin/systemctl", "/bin/systemctl")
UNIT_TYPES = "service,scope,socket,timer,path"

BASICS = ("dbus", "dbus-broker", "systemd-journald", "systemd-udevd")
"""What other units talk to while they stop: services, most of them with sockets that would wake them again."""

KEPT = ("init.scope",)


@dataclass(frozen=True)
class StopUnits:
    """Stop units through PID 1, all at once and without their ordering.

    Through PID 1, so that nothing is started again and each unit's own ExecStop and KillSignal count; without ordering,
    because waiting for one another is what takes the time.
    """

    name: str
    units: tuple[str, ...]
    grace: float  # seconds
    scan: Callable[[], Iterable[Process]] = field(default=proc.scan, repr=False)

    def describe(self) -> str:
        services = [unit.removesuffix(".service") for unit in self.units if unit.endswith((".service", ".scope"))]
        more = f" and {len(services) - 8} more" if len(services) > 8 else ""
        return f"stop {len(self.units)} units at once, {self.grace:g} s: {', '.join(services[:8])}{more}"

    def run(self, context: Context) -> Running:
        if not self.units:
            return
        until = min(context.now() + self.grace, context.deadline - KILL_RESERVE)
        spare, watched = Spare.ours(), Watched()
        # Every process of these units is known before the first is asked: what a unit leaves behind is then known too.
        watched.take(p for p in self.scan() if not spare(p) and unit_of(p) in self.units)
        command: Spawned | None = start([*systemctl(), "stop", "--no-block", _NO_ORDER, "--", *self.units])
        try:
            while (watched or command) and context.now() < until:
                fds = watched.fds | ({command.pidfd} if command else frozenset())
                readable = yield Wait(fds, until)
                watched.drop(readable)
                if command and command.pidfd in readable:
                    for line in complaints(command.finish()):
                        context.tell(line)
                    command = None
                if not watched:
                    watched.take(p for p in self.scan() if not spare(p) and unit_of(p) in self.units)
            context.asked.update((p.pid, p.start) for p in self.scan() if unit_of(p) in self.units)
        finally:
            watched.close()
            if command:
                command.kill()

    def undo(self) -> None:
        """Nothing: stopping is what the commit point is about."""


_NO_ORDER = "--job-mode=ignore-dependencies"


class Systemd:
    name = "systemd"

    def services(self, grace: float, processes: tuple[Process, ...]) -> ServiceSteps:
        units = [unit for unit in active_units() if unit not in KEPT]
        basics = tuple(unit for unit in units if is_basic(unit))
        return ServiceSteps(
            services=(StopUnits("services", tuple(unit for unit in units if unit not in basics), grace),),
            basics=(StopUnits("basics", basics, grace),),
            covered=frozenset(process for process in processes if unit_of(process) in units),
        )

    def describe_restart(self, act: Act) -> str:
        return f"ask systemd: systemctl {_VERB[act]}"

    def restart(self, act: Act) -> None:
        # 255 and newer turn `systemctl reboot` into a kexec when an image is loaded; here it means what it says.
        finished = run([*systemctl(), _VERB[act]], seconds=25.0, environment={"SYSTEMCTL_SKIP_AUTO_KEXEC": "1"})
        if finished.exit_code:
            raise NotRestarted(
                f"systemd did not accept `systemctl {_VERB[act]}`",
                finished.last_line or f"exit status {finished.exit_code}",
                hint="kexecctl reboot --fast needs less of PID 1, --now needs nothing of it",
            )

    def describe_finish(self, act: Act) -> str:
        return f"hand over to systemd (signal RTMIN+{_SIGNAL[act]}): it detaches what is left and {_DOES[act]}"

    def finish(self, act: Act) -> bool:
        forbid_in_tests("signal PID 1")
        os.kill(1, signal.SIGRTMIN + _SIGNAL[act])
        return True


_VERB = {Act.KEXEC: "kexec", Act.FIRMWARE: "reboot"}
_SIGNAL = {Act.KEXEC: 16, Act.FIRMWARE: 15}
_DOES = {Act.KEXEC: "jumps", Act.FIRMWARE: "resets"}


def systemctl() -> tuple[str, ...]:
    """The command to start, as an absolute path: PATH may be anybody's."""
    for path in SYSTEMCTL:
        if os.access(path, os.X_OK):
            return (path, "--quiet", "--no-ask-password")
    raise NotRestarted("systemd runs as PID 1 but cannot be asked", f"there is no {SYSTEMCTL[0]}")


def active_units() -> tuple[str, ...]:
    """Every unit that runs something or would start something. Raises NotRestarted if PID 1 does not answer."""
    command = [*systemctl(), "list-units", f"--type={UNIT_TYPES}", "--state=active,activating,reloading", "--plain"]
    finished: Finished = run([*command, "--no-legend", "--full", "--no-pager"], seconds=10.0)
    if finished.exit_code:
        raise NotRestarted("systemd does not tell its units", finished.last_line)
    return tuple(line.split(None, 1)[0] for line in finished.output.splitlines() if line.strip())


def is_basic(unit: str) -> bool:
    """Whether a unit is one of BASICS, or a socket of one, such as systemd-journald-dev-log.socket."""
    stem = unit.rpartition(".")[0]
    return unit.endswith((".service", ".socket")) and any(stem == b or stem.startswith(f"{b}-") for b in BASICS)


def complaints(finished: Finished) -> tuple[str, ...]:
    """What `systemctl stop` could not do, but for units that never let anybody stop them (they run nothing)."""
    lines = finished.errors.splitlines() if finished.exit_code else []
    return tuple(line for line in lines if line.startswith("Failed") and "refuse manual" not in line)


def unit_of(process: Process) -> str:
    """The unit whose cgroup a process is in: the first service or scope of its path."""
    for part in process.cgroup.split("/"):
        if part.endswith((".service", ".scope")):
            return part
    return ""
