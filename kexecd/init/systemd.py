# SPDX-License-Identifier: MIT
"""systemd as PID 1. Everything goes over its private socket or by signal, so that no message bus has to be alive.

PID 1 stops what it alone can stop: units with an ExecStop or a signal of their own, guests, sessions. Then it is held
still, and everybody else is asked directly, which is what it would do, without its bookkeeping. Where it cannot be held
still it stops everything, the basics last.

Signals (systemd(1)): SIGRTMIN+15 restarts and SIGRTMIN+16 kexecs at once, without stopping units. PID 1 becomes
systemd-shutdown, which kills what is left, unmounts, detaches storage (in the initramfs if it has to), keeps the
watchdog, and falls back to an ordinary restart by itself if the jump fails.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import replace

from kexecd.config.policy import Policy
from kexecd.errors import NotRestarted
from kexecd.init.by_class import by_class
from kexecd.init.systemd_units import (
    DAEMON,
    HoldPid1,
    QuitGuests,
    StopUnits,
    active_units,
    groups_of,
    is_guest,
    sort_out,
    systemctl,
)
from kexecd.init.unit_files import wishes
from kexecd.kernel import freezer, proc
from kexecd.kernel.guard import forbid_in_tests
from kexecd.kernel.spawn import run, start
from kexecd.model import Act, Process
from kexecd.plan import ServiceSteps
from kexecd.teardown.classes import unit_of
from kexecd.teardown.processes import QuitProcesses
from kexecd.teardown.spare import Spare

SHUTDOWN_HOOKS = "/usr/lib/systemd/system-shutdown"
DONE_BY_US = ("kexecd.shutdown", "mdadm.shutdown")
"""Of these hooks, those whose work is done by then (kexecd.teardown.verdict, kexecd.teardown.filesystems.Settle)."""


class Systemd:
    name = "systemd"

    def services(self, policy: Policy, processes: tuple[Process, ...]) -> ServiceSteps:
        try:
            running = active_units()
        except NotRestarted as silent:
            remark = f"{silent.what}: {silent.why}; everybody is asked to quit directly, as without an init"
            return replace(by_class(policy, processes), remark=remark)
        groups = groups_of(processes)
        guests = {unit_of(group) for process, group in groups.items() if is_guest(process, group)}
        needed = needed_units(processes)
        held = not freezer.why_not()
        active = (unit for unit in running if unit not in needed)
        units = sort_out(active, guests, wishes)
        basics = StopUnits("basics", units.basics, policy.grace_services)
        direct = StopUnits("services", units.direct, policy.grace_services)
        through_pid_1 = {*units.guests, *units.sessions, *units.services}
        steps = ServiceSteps(
            guests=(QuitGuests(StopUnits("guests", units.guests, policy.grace_guests)),) if guests else (),
            sessions=(StopUnits("sessions", units.sessions, policy.grace_sessions),) if units.sessions else (),
        )
        if not held:
            services = StopUnits("services", (*units.services, *units.direct), policy.grace_services)
            through_pid_1 |= {*units.direct, *units.basics}
            steps = replace(steps, services=(services,), basics=(basics,))
        else:
            first = StopUnits("services", units.services, policy.grace_services)
            spared = frozenset(p.pid for p, group in groups.items() if unit_of(group) in {*units.basics, *units.ground})
            others = tuple(p for p, group in groups.items() if unit_of(group) not in through_pid_1)
            applications = tuple(process for process in others if process.pid not in spared)
            steps = replace(
                steps,
                services=(first,) if units.services else (),
                hold=(HoldPid1((direct, basics)),),
                applications=(QuitProcesses(policy.grace_services, applications, spared, "applications"),),
            )
            through_pid_1 |= {unit_of(groups[process]) for process in applications}
        return replace(
            steps, covered=frozenset(process for process, group in groups.items() if unit_of(group) in through_pid_1)
        )

    def describe_restart(self, act: Act) -> str:
        return f"ask systemd: systemctl {_VERB[act]}"

    def refuse_beforehand(self, act: Act) -> None:
        """Nothing: it needs no hook of ours."""

    def restart(self, act: Act) -> None:
        # 255 and newer turn `systemctl reboot` into a kexec when an image is loaded; here it means what it says.
        finished = run([*systemctl(), _VERB[act]], seconds=25.0, environment={"SYSTEMCTL_SKIP_AUTO_KEXEC": "1"})
        if finished.exit_code:
            raise NotRestarted(
                f"systemd did not accept `systemctl {_VERB[act]}`",
                finished.last_line or f"exit status {finished.exit_code}",
                hint="kexecctl reboot --fast needs less of PID 1, --now needs nothing of it",
            )

    def warm_up(self) -> None:
        with contextlib.suppress(OSError, NotRestarted):
            start([*systemctl(), "start", "--no-block", DAEMON])

    def has_last_word(self) -> str:
        # systemd-shutdown(8) runs them when everything is unmounted: a UPS is told, an array is marked clean.
        with contextlib.suppress(OSError):
            names = sorted(entry.name for entry in os.scandir(SHUTDOWN_HOOKS) if entry.is_file())
            if others := [name for name in names if name not in DONE_BY_US]:
                return f"{SHUTDOWN_HOOKS} has {others[0]}"
        return ""

    def going_down(self) -> bool:
        return run([systemctl()[0], "is-system-running"], seconds=10.0).output.strip() == "stopping"

    def describe_finish(self, act: Act) -> str:
        return f"hand over to systemd (signal RTMIN+{_SIGNAL[act]}): it detaches what is left and {_DOES[act]}"

    def finish(self, act: Act) -> bool:
        freezer.release()
        forbid_in_tests("signal PID 1")
        os.kill(1, signal.SIGRTMIN + _SIGNAL[act])
        return True


_VERB = {Act.KEXEC: "kexec", Act.FIRMWARE: "reboot"}
_SIGNAL = {Act.KEXEC: 16, Act.FIRMWARE: 15}
_DOES = {Act.KEXEC: "jumps", Act.FIRMWARE: "resets"}


def needed_units(processes: Iterable[Process]) -> frozenset[str]:
    """The units of those who serve the root filesystem; `processes` are those who do not."""
    spare = Spare.again().renewed()
    passed_over = {process.pid for process in processes} | proc.kernel_threads() | spare.below
    others = (proc.read(pid) for pid in proc.pids() if pid not in passed_over)
    serving = (process for process in others if process and not process.kernel_thread and spare.serves(process))
    return frozenset(unit_of(proc.cgroup(process.pid)) for process in serving)
