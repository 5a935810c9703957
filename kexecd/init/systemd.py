# SPDX-License-Identifier: MIT
"""systemd as PID 1. Everything goes over its private socket or by signal, so that no message bus has to be alive.

Signals (systemd(1)): SIGRTMIN+15 restarts and SIGRTMIN+16 kexecs at once, without stopping units. PID 1 becomes
systemd-shutdown, which kills what is left, unmounts, detaches storage (in the initramfs if it has to), keeps the
watchdog, and falls back to an ordinary restart by itself if the jump fails.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable

from kexecd.errors import NotRestarted
from kexecd.init.systemd_units import QuitGuests, StopUnits, active_units, is_guest, sort_out, systemctl
from kexecd.kernel import proc
from kexecd.kernel.guard import forbid_in_tests
from kexecd.kernel.spawn import run
from kexecd.model import Act, Process
from kexecd.plan import ServiceSteps
from kexecd.teardown.classes import unit_of
from kexecd.teardown.spare import Spare

SHUTDOWN_HOOKS = "/usr/lib/systemd/system-shutdown"


class Systemd:
    name = "systemd"

    def services(self, grace: float, processes: tuple[Process, ...]) -> ServiceSteps:
        groups = {process: proc.cgroup(process.pid) for process in processes}
        guests = {unit_of(group) for process, group in groups.items() if is_guest(process, group)}
        needed = needed_units(processes)
        units = sort_out((unit for unit in active_units() if unit not in needed), guests)
        return ServiceSteps(
            guests=(QuitGuests(StopUnits("guests", units.guests, grace)),) if guests else (),
            sessions=(StopUnits("sessions", units.sessions, grace),) if units.sessions else (),
            services=(StopUnits("services", units.services, grace),) if units.services else (),
            basics=(StopUnits("basics", units.basics, grace),) if units.basics else (),
            covered=frozenset(process for process, group in groups.items() if unit_of(group) in units.all),
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

    def has_last_word(self) -> str:
        # systemd-shutdown(8) runs them when everything is unmounted: a UPS is told, an array is marked clean.
        with contextlib.suppress(OSError):
            if names := sorted(entry.name for entry in os.scandir(SHUTDOWN_HOOKS) if entry.is_file()):
                return f"{SHUTDOWN_HOOKS} has {names[0]}"
        return ""

    def going_down(self) -> bool:
        return run([systemctl()[0], "is-system-running"], seconds=10.0).output.strip() == "stopping"

    def describe_finish(self, act: Act) -> str:
        return f"hand over to systemd (signal RTMIN+{_SIGNAL[act]}): it detaches what is left and {_DOES[act]}"

    def finish(self, act: Act) -> bool:
        forbid_in_tests("signal PID 1")
        os.kill(1, signal.SIGRTMIN + _SIGNAL[act])
        return True


_VERB = {Act.KEXEC: "kexec", Act.FIRMWARE: "reboot"}
_SIGNAL = {Act.KEXEC: 16, Act.FIRMWARE: 15}
_DOES = {Act.KEXEC: "jumps", Act.FIRMWARE: "resets"}


def needed_units(processes: Iterable[Process]) -> frozenset[str]:
    """The units of those who serve the root filesystem; `processes` are those who do not."""
    asked, spare = {process.pid for process in processes}, Spare.ours()
    others = (process for process in proc.scan() if process.pid not in asked and not process.kernel_thread)
    return frozenset(unit_of(proc.cgroup(process.pid)) for process in others if spare.serves(process))
