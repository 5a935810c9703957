# SPDX-License-Identifier: MIT
from __future__ import annotations

import os

from kexecd.config.checks import CheckId
from kexecd.config.kexec_options import KexecOptions, Method
from kexecd.config.settings import Settings
from kexecd.kernel import proc
from kexecd.model import Process
from kexecd.preflight.facts import Facts, Subject
from kexecd.preflight.finding import Severity
from tests.unit.images import bzimage
from tests.unit.preflight.cases import fires, silent
from tests.unit.preflight.machine import Machine
from tests.unit.preflight.people_cases import ended, seen

LOCKDOWN = "/sys/kernel/security/lockdown"
INSISTS = Settings(kexec_options=KexecOptions(method=Method.TOOLS), origins=(("kexec_options", "/etc/conf.d/kexec:3"),))


def ourselves() -> tuple[Process, ...]:
    us = proc.read(os.getpid())
    assert us
    return (us,)


@fires(CheckId.CAPABILITY, Severity.REFUSE, "this takes root with CAP_SYS_BOOT")
def without_a_capability(machine: Machine) -> Facts:
    machine.write("/proc/self/status", "CapEff:\t0000000000000000\n")
    return machine.facts()


@silent(CheckId.CAPABILITY, CheckId.KEXEC_SUPPORT)
def a_tree_in_which_nothing_of_a_running_system_was_captured(machine: Machine) -> Facts:
    machine.remove("/proc/self/status")
    machine.remove("/sys/kernel/kexec_loaded")
    return machine.facts()


@fires(CheckId.KEXEC_SUPPORT, Severity.REFUSE, "says nothing about kexec")
def a_kernel_without_kexec(machine: Machine) -> Facts:
    machine.remove("/sys/kernel/kexec_loaded")
    return machine.facts()


@fires(CheckId.LOAD_DISABLED, Severity.REFUSE, "kernel.kexec_load_disabled is 1")
def loading_is_switched_off(machine: Machine) -> Facts:
    machine.write("/proc/sys/kernel/kexec_load_disabled", "1\n")
    return machine.facts()


@silent(CheckId.LOAD_DISABLED, CheckId.LOAD_LIMIT)
def loading_is_switched_off_with_an_image_in_memory(machine: Machine) -> Facts:
    machine.write("/proc/sys/kernel/kexec_load_disabled", "1\n")
    machine.write("/proc/sys/kernel/kexec_load_limit_reboot", "0\n")
    return machine.facts(Subject(image=machine.image()))


@fires(CheckId.LOAD_LIMIT, Severity.REFUSE, "kernel.kexec_load_limit_reboot is 0")
def every_call_has_been_made(machine: Machine) -> Facts:
    machine.write("/proc/sys/kernel/kexec_load_limit_reboot", "0\n")
    return machine.facts()


@fires(CheckId.LOAD_LIMIT, Severity.WARN, "kernel.kexec_load_limit_reboot is 1")
def one_call_is_left(machine: Machine) -> Facts:
    machine.write("/proc/sys/kernel/kexec_load_limit_reboot", "1\n")
    return machine.facts()


@silent(CheckId.LOAD_LIMIT)
def two_calls_are_left(machine: Machine) -> Facts:
    machine.write("/proc/sys/kernel/kexec_load_limit_reboot", "2\n")
    return machine.facts()


@fires(CheckId.LOCKDOWN, Severity.REFUSE, "locked down (integrity)")
def a_locked_down_kernel_and_an_unsigned_image(machine: Machine) -> Facts:
    machine.write(LOCKDOWN, "none [integrity] confidentiality\n")
    return machine.facts()


@silent(CheckId.LOCKDOWN, CheckId.SECURE_BOOT)
def a_locked_down_kernel_and_a_signed_image(machine: Machine) -> Facts:
    machine.write(LOCKDOWN, "none [integrity] confidentiality\n")
    machine.efi("SecureBoot", b"\1")
    return machine.facts(Subject(target=machine.target(kernel=bzimage(certificate=512))))


@fires(CheckId.SECURE_BOOT, Severity.WARN, "Secure Boot is on")
def secure_boot_and_an_unsigned_image(machine: Machine) -> Facts:
    machine.write(LOCKDOWN, "[none] integrity confidentiality\n")
    machine.efi("SecureBoot", b"\1")
    return machine.facts()


@silent(CheckId.SECURE_BOOT)
def secure_boot_and_a_signed_image(machine: Machine) -> Facts:
    machine.efi("SecureBoot", b"\1")
    return machine.facts(Subject(target=machine.target(kernel=bzimage(certificate=512))))


@silent(CheckId.SECURE_BOOT)
def secure_boot_that_is_off(machine: Machine) -> Facts:
    machine.efi("SecureBoot", b"\0")
    return machine.facts()


@fires(
    CheckId.KEXEC_TOOLS, Severity.REFUSE, "/etc/conf.d/kexec:3 asks for kexec-tools, and there is no /usr/sbin/kexec"
)
def kexec_tools_that_are_not_there(machine: Machine) -> Facts:
    return machine.facts(Subject(target=machine.target(), settings=INSISTS))


@fires(CheckId.KEXEC_TOOLS, Severity.REFUSE, "cannot load anything while the kernel is locked down")
def kexec_tools_under_lockdown(machine: Machine) -> Facts:
    machine.write("/usr/sbin/kexec")
    machine.write(LOCKDOWN, "none integrity [confidentiality]\n")
    return machine.facts(Subject(target=machine.target(), settings=INSISTS))


@silent(CheckId.KEXEC_TOOLS)
def kexec_tools_that_are_there(machine: Machine) -> Facts:
    machine.write("/usr/sbin/kexec")
    return machine.facts(Subject(target=machine.target(), settings=INSISTS))


def holder(machine: Machine, title: str) -> Process:
    """Somebody who calls himself so and has the device open."""
    device = machine.opened.enter_context(machine.write("/dev/liveupdate").open())
    has_it = [(os.POSIX_SPAWN_DUP2, device.fileno(), 9)]
    pid = os.posix_spawn("/bin/sleep", [title, "60"], {}, file_actions=has_it)
    machine.opened.callback(ended, pid)
    return seen(pid)


@fires(CheckId.LIVE_UPDATE, Severity.REFUSE, "has a live update session")
def somebody_has_the_device_open(machine: Machine) -> Facts:
    return machine.facts(processes=(holder(machine, "luod"),), alive=True)


@silent(CheckId.LIVE_UPDATE)
def somebody_who_is_spared_on_the_way_down_has_it_open(machine: Machine) -> Facts:
    return machine.facts(processes=(holder(machine, "@kexecd-state"),), alive=True)


@silent(CheckId.LIVE_UPDATE)
def nobody_has_the_device_open(machine: Machine) -> Facts:
    machine.write("/dev/liveupdate")
    return machine.facts(processes=ourselves(), alive=True)
