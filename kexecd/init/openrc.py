# SPDX-License-Identifier: MIT
"""OpenRC, whoever is PID 1 below it: openrc-init, sysvinit with Gentoo's inittab or Debian's, or busybox.

Asked for an ordinary restart PID 1 has OpenRC stop everything, kill the rest and unmount, with our kexec-jump as the
last service of runlevel shutdown; on Debian, whose runlevels are others, kexecd-jump in runlevel off.

In the fast way, services whose script does more to stop them than send a signal are stopped by it, without their
dependencies and all at once; everybody else gets a TERM. Guests come first, and what keeps disks and the network up is
not stopped at all.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from kexecd.config.policy import Policy
from kexecd.init.by_class import by_class
from kexecd.init.openrc_scripts import GUESTS, StopScripts, started, to_be_stopped
from kexecd.init.pid1 import Pid1, program
from kexecd.init.sysvinit import Hooked
from kexecd.kernel import proc
from kexecd.kernel.files import join_root
from kexecd.kernel.spawn import start
from kexecd.model import Context, Process, ProcessClass, Running
from kexecd.plan import ServiceSteps
from kexecd.teardown.classes import Roll, quit_guests, unit_of

HOOKS = ("/etc/runlevels/shutdown/kexec-jump", "/etc/runlevels/off/kexecd-jump")
DEBIAN = "/etc/runlevels/off"
STOPPING = "/run/openrc/rc.stopping"
"""There while the services of a runlevel are being stopped (src/shared/rc.h of OpenRC)."""


class OpenRC(Hooked):
    def __init__(self, kind: Pid1, root: str = "/") -> None:
        super().__init__(f"OpenRC ({kind})", kind, root)

    def no_hook(self) -> tuple[str, str]:
        if any(os.access(join_root(self.root, path), os.X_OK) for path in HOOKS):
            return "", ""
        if os.path.isdir(join_root(self.root, DEBIAN)):
            return "its last service, kexecd-jump, is not in runlevel off", "update-rc.d kexecd-jump defaults"
        return "its last service, kexec-jump, is not in runlevel shutdown", "rc-update add kexec-jump shutdown"

    def services(self, policy: Policy, processes: tuple[Process, ...]) -> ServiceSteps:
        stopped = to_be_stopped(started(self.root), self.root)
        guests = tuple(name for name in stopped if name.startswith(GUESTS))
        others = tuple(name for name in stopped if name not in guests)
        quits = by_class(policy, processes)
        who = {process: unit_of(proc.cgroup(process.pid)) for process in processes}
        covered = quits.covered | {process for process, unit in who.items() if unit in stopped}
        first = (QuitGuests(StopScripts("guests", guests, policy.grace_guests)),) if guests else quits.guests
        scripts = (StopScripts("services", others, policy.grace_services),) if others else ()
        return ServiceSteps(
            guests=first,
            sessions=quits.sessions,
            services=scripts,
            applications=quits.services,  # behind the scripts: whoever is stopped by one gets no TERM beside it
            covered=frozenset(covered),
        )

    def going_down(self) -> bool:
        return os.path.isdir(join_root(self.root, STOPPING)) or super().going_down()

    def warm_up(self) -> None:
        if rc_service := program("rc-service"):
            with contextlib.suppress(OSError):
                start([rc_service, "--ifexists", "kexecd", "start"])


@dataclass(frozen=True)
class QuitGuests:
    """The services that shut guests down in good order; then, directly, the guests that nobody has shut down."""

    stop: StopScripts
    name: str = "guests"

    def describe(self) -> str:
        return (
            f"{self.stop.describe()}; then ask each guest that is left to shut down,"
            f" kill it after {self.stop.grace:g} s"
        )

    def run(self, context: Context) -> Running:
        yield from self.stop.run(context)
        left = Roll((ProcessClass.GUEST,)).of(ProcessClass.GUEST)
        yield from quit_guests(context, left, self.stop.grace)

    def undo(self) -> None:
        """Nothing: stopping is what the commit point is about."""
