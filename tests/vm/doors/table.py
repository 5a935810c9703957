# SPDX-License-Identifier: MIT
"""The doors out of a machine, a row each: what is done, where there is such a thing, and how it has to end.

Every guest is armed: its administrator has said that each restart is to be a kexec. What the doors are on each init:
sysvinit's shutdown(8) and inittab(5), systemctl(1), org.freedesktop.login1(5), openrc-shutdown(8).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from tests.vm.doors import staging
from tests.vm.lab.guest import Guest
from tests.vm.lab.loaders import Firmware
from tests.vm.lab.recipe import Init, Recipe


class End(enum.StrEnum):
    """How a door may end."""

    KEXEC = "kexec"
    FIRMWARE = "firmware"
    SETUP = "setup"  # through the firmware, whose own screen comes up
    OFF = "off"  # without power, or halted: what `halt` means differs from init to init
    RESCUE = "rescue"  # the same boot goes on, with one shell and no image in memory


KEYS = "ctrl-alt-delete"
"""In place of a command: the keys of the machine's keyboard."""

SYSTEMD = frozenset({Init.SYSTEMD})
SYSVINIT = frozenset({Init.SYSV_RC, Init.DEBIAN_OPENRC, Init.OPENRC_SYSVINIT})
OPENRC_INIT = frozenset({Init.OPENRC_INIT})
OPENRC = frozenset(init for init in Init if init.has_openrc)
EVERY = frozenset(Init)

Way = tuple[frozenset[Init], str]
"""On these inits, this command."""


@dataclass(frozen=True, slots=True)
class Door:
    """reason: what the log of the next boot has to say, as a regular expression."""

    name: str
    end: End
    ways: tuple[Way, ...]
    before: Callable[[Guest], None] = staging.nothing
    reason: str = ""
    firmware: Firmware = Firmware.BIOS
    """Where the door is: the guest with an UEFI firmware boots too slowly to be taken for the others too."""

    def command(self, recipe: Recipe) -> str | None:
        """What opens it in such a guest; None where there is none."""
        if recipe.loader.firmware is not self.firmware:
            return None
        return next((command for inits, command in self.ways if recipe.init in inits), None)


def _kexec(command: str, inits: frozenset[Init] = EVERY) -> Door:
    return Door(command, End.KEXEC, ((inits, command),))


DOORS = (
    # Every restart is a kexec
    _kexec("reboot"),
    _kexec("shutdown -r now"),
    _kexec("shutdown -r +1"),
    _kexec("init 6", SYSTEMD | SYSVINIT),
    Door("Ctrl-Alt-Del", End.KEXEC, ((EVERY, KEYS),)),
    _kexec("systemctl reboot", SYSTEMD),
    Door("systemctl kexec", End.KEXEC, ((SYSTEMD, "systemctl kexec"),), before=staging.image),
    Door(
        "Reboot, asked of logind", End.KEXEC,
        ((SYSTEMD, "busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager "
                   "Reboot b false"),),
    ),
    _kexec("openrc-shutdown -r now", OPENRC),
    _kexec("kexecctl reboot"),
    _kexec("kexecctl reboot --fast"),
    _kexec("kexecctl reboot --now"),
    # Whoever wants the firmware gets it, whatever is in memory
    Door("kexecctl reboot --firmware", End.FIRMWARE, ((EVERY, "kexecctl reboot --firmware"),), before=staging.image),
    Door("kexecctl reboot --firmware --fast", End.FIRMWARE, ((EVERY, "kexecctl reboot --firmware --fast"),),
         before=staging.image),
    Door("systemctl reboot --firmware-setup", End.SETUP, ((SYSTEMD, "systemctl reboot --firmware-setup"),),
         before=staging.image, firmware=Firmware.UEFI),
    # None of a kexec's business
    Door("poweroff", End.OFF, ((EVERY, "poweroff"),), before=staging.image),
    Door("halt", End.OFF, ((EVERY, "halt"),), before=staging.image),
    Door(
        "Single user", End.RESCUE,
        ((SYSTEMD, "systemctl rescue"), (frozenset({Init.SYSV_RC, Init.DEBIAN_OPENRC}), "init 1"),
         (frozenset({Init.OPENRC_SYSVINIT}), "init S"), (OPENRC_INIT, "openrc-shutdown -s now")),
        before=staging.image,
    ),
)  # fmt: skip


def _fault(name: str, before: Callable[[Guest], None], reason: str) -> Door:
    return Door(name, End.FIRMWARE, ((EVERY, "reboot"),), before, reason)


FAULTS = (
    _fault("reboot, and no kernel is there", staging.no_kernel, reason="no kernel "),
    _fault("reboot, and the kernel is cut short", staging.cut_kernel, reason="missing"),
    _fault("reboot, and the system forbids kexec", staging.forbidden, reason="kexec_load_disabled"),
    _fault("reboot, and a hook says no", staging.veto, reason=staging.VETO),
    _fault("reboot, and the jump fails", staging.unload_late, reason="did not happen"),
    Door(
        "kexecctl reboot --fast, without D-Bus, PID 1 held still", End.KEXEC,
        ((EVERY, "kexecctl reboot --fast"),), staging.silent_init,
    ),
)  # fmt: skip
"""Whatever goes wrong ends in a restart, and the next boot's log says why it was no kexec."""

TABLE = (*DOORS, *FAULTS)
