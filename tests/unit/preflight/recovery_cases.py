# SPDX-License-Identifier: MIT
from __future__ import annotations

from kexecd import handoff
from kexecd.config.checks import CheckId
from kexecd.handoff import PendingHandoff
from kexecd.kernel.files import join_root
from kexecd.model import Way
from kexecd.preflight.facts import Facts, Subject
from kexecd.preflight.finding import Severity
from tests.unit.kernel_tree import BOOT_ID
from tests.unit.preflight.cases import fires, silent
from tests.unit.preflight.machine import CMDLINE, NOW, VERSION, Machine

CRASH = "/sys/kernel/kexec_crash_loaded"
RTC = "/sys/class/rtc/rtc0/since_epoch"
WATCHDOG = "/sys/class/watchdog/watchdog0"


@fires(CheckId.CRASH_KERNEL, Severity.WARN, "no crashkernel=")
def a_crash_kernel_that_the_next_one_has_no_room_for(machine: Machine) -> Facts:
    machine.write(CRASH, "1\n")
    return machine.facts()


@silent(CheckId.CRASH_KERNEL)
def a_crash_kernel_that_the_next_one_has_room_for(machine: Machine) -> Facts:
    machine.write(CRASH, "1\n")
    return machine.facts(Subject(image=machine.image(cmdline=f"{CMDLINE} crashkernel=256M")))


@fires(CheckId.FIRMWARE_WISH, Severity.WARN, "asked for its setup")
def somebody_wants_the_firmwares_setup(machine: Machine) -> Facts:
    return machine.facts(Subject(firmware_wish="somebody has asked for its setup"))


@silent(CheckId.FIRMWARE_WISH)
def nobody_wants_the_firmware(machine: Machine) -> Facts:
    return machine.facts()


def asked(machine: Machine, from_boot_id: str) -> Facts:
    """A kexec was asked for in that boot; the running command line has no nonce."""
    pending = PendingHandoff(
        nonce="0123456789abcdef",
        from_boot_id=from_boot_id,
        from_release="6.1.0",
        to_entry_id="it",
        to_version="6.12.0",
        way=Way.FAST,
        requested_at=NOW,
    )
    handoff.write(pending, join_root(machine.root, handoff.STATE_DIR))
    return machine.facts()


@fires(CheckId.LAST_KEXEC, Severity.WARN, "did not happen or did not arrive")
def the_last_kexec_ended_in_the_firmware(machine: Machine) -> Facts:
    return asked(machine, "an earlier boot")


@silent(CheckId.LAST_KEXEC)
def a_kexec_that_is_still_to_come(machine: Machine) -> Facts:
    return asked(machine, BOOT_ID)


@silent(CheckId.LAST_KEXEC)
def a_kexec_that_arrived(machine: Machine) -> Facts:
    machine.write("/proc/cmdline", "root=/dev/vda1 kexecd.nonce=0123456789abcdef\n")
    return asked(machine, "an earlier boot")


@fires(CheckId.CLOCK, Severity.WARN, "3600 s off")
def a_clock_an_hour_off(machine: Machine) -> Facts:
    machine.write(RTC, f"{NOW - 3600:.0f}\n")
    return machine.facts()


@silent(CheckId.CLOCK)
def a_clock_with_some_drift(machine: Machine) -> Facts:
    machine.write(RTC, f"{NOW - 20:.0f}\n")
    return machine.facts()


@silent(CheckId.CLOCK)
def a_clock_in_local_time(machine: Machine) -> Facts:
    machine.write(RTC, f"{NOW + 3600:.0f}\n")
    machine.write("/etc/adjtime", "0.0 0 0.0\n0\nLOCAL\n")
    return machine.facts()


def dog(machine: Machine, state: str, seconds: int, stop_on_reboot: int = 0) -> Facts:
    machine.dog(state, seconds, stop_on_reboot=stop_on_reboot)
    return machine.facts()


@fires(CheckId.WATCHDOG, Severity.WARN, "its driver switches the watchdog iTCO_wdt off before the jump")
def a_watchdog_that_its_driver_stops(machine: Machine) -> Facts:
    return dog(machine, "inactive", 60, stop_on_reboot=-1)


@fires(CheckId.WATCHDOG, Severity.WARN, "the new kernel has no driver iTCO_wdt that could switch")
def a_watchdog_that_the_new_kernel_could_not_stop(machine: Machine) -> Facts:
    machine.link("/sys/class/watchdog/watchdog0/device/driver/module", "/sys/module/iTCO_wdt")
    return machine.facts()


@silent(CheckId.WATCHDOG)
def a_watchdog_that_the_new_kernel_can_stop(machine: Machine) -> Facts:
    machine.link("/sys/class/watchdog/watchdog0/device/driver/module", "/sys/module/iTCO_wdt")
    machine.write(f"/lib/modules/{VERSION}/modules.dep", "kernel/drivers/watchdog/iTCO_wdt.ko.xz:\n")
    return machine.facts()


@fires(CheckId.WATCHDOG, Severity.WARN, "nobody brings back a new kernel that hangs: there is no hardware watchdog")
def a_machine_without_a_watchdog(machine: Machine) -> Facts:
    for name in ("state", "timeout", "identity", "nowayout"):
        machine.remove(f"{WATCHDOG}/{name}")
    machine.path.joinpath(WATCHDOG.lstrip("/")).rmdir()
    return machine.facts()


@fires(CheckId.WATCHDOG, Severity.WARN, "the watchdog iTCO_wdt resets this machine when nobody feeds it for 10 s")
def a_watchdog_that_is_impatient(machine: Machine) -> Facts:
    return dog(machine, "active", 10)


@silent(CheckId.WATCHDOG)
def a_watchdog_that_sleeps(machine: Machine) -> Facts:
    return dog(machine, "inactive", 10)


@silent(CheckId.WATCHDOG)
def a_watchdog_that_is_patient(machine: Machine) -> Facts:
    return dog(machine, "active", 120)
