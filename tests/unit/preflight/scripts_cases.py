# SPDX-License-Identifier: MIT
from __future__ import annotations

from kexecd.config.checks import CheckId
from kexecd.model import Way
from kexecd.preflight.facts import Facts, Subject
from kexecd.preflight.finding import Severity
from tests.unit.preflight.cases import fires, silent
from tests.unit.preflight.machine import Machine

HEAD = "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: {0}\n# Required-Stop: reboot\n# Default-Stop: 6\n"
LSB = HEAD + "### END INIT INFO\n{1}\n"
JUMPS = LSB.format("kexec", "/sbin/kexec -e")
LOADS = LSB.format("kexec-load", "/sbin/kexec -l /vmlinuz")
OURS = LSB.format("kexec-load", "exec kexecctl service stop")


def systemd(machine: Machine) -> None:
    (machine.path / "run/systemd/system").mkdir(parents=True)


def openrc(machine: Machine) -> None:
    machine.write("/sbin/openrc")
    machine.write("/run/openrc/softlevel", "default\n")
    machine.write("/etc/runlevels/shutdown/kexec-jump")


def sysv(machine: Machine) -> None:
    machine.write("/etc/rc6.d/K06kexecd-jump")


@fires(CheckId.FOREIGN_SCRIPTS, Severity.REFUSE, "/etc/init.d/kexec: it jumps")
def debians_kexec_under_openrc(machine: Machine) -> Facts:
    openrc(machine)
    machine.write("/etc/init.d/kexec", JUMPS)
    machine.link("/etc/runlevels/default/kexec", "/etc/init.d/kexec")
    return machine.facts()


@fires(CheckId.FOREIGN_SCRIPTS, Severity.WARN, "/etc/init.d/kexec-load: it loads")
def debians_kexec_load_under_systemd(machine: Machine) -> Facts:
    systemd(machine)
    machine.write("/etc/init.d/kexec-load", LOADS)
    machine.link("/etc/rc2.d/S01kexec-load", "../init.d/kexec-load")
    return machine.facts()


@fires(CheckId.FOREIGN_SCRIPTS, Severity.WARN, "without a look")
def debians_kexec_at_the_end_of_sysvinits_way(machine: Machine) -> Facts:
    sysv(machine)
    machine.write("/etc/init.d/kexec", JUMPS)
    machine.link("/etc/rc6.d/K06kexec", "../init.d/kexec")
    return machine.facts()


@silent(CheckId.FOREIGN_SCRIPTS)
def debians_kexec_load_that_is_masked(machine: Machine) -> Facts:
    systemd(machine)
    machine.write("/etc/init.d/kexec-load", LOADS)
    machine.link("/etc/rc2.d/S01kexec-load", "../init.d/kexec-load")
    machine.link("/etc/systemd/system/kexec-load.service", "/dev/null")
    return machine.facts()


@silent(CheckId.FOREIGN_SCRIPTS)
def a_script_of_ours(machine: Machine) -> Facts:
    systemd(machine)
    machine.write("/etc/init.d/kexec-load", OURS)
    machine.link("/etc/rc2.d/S01kexec-load", "../init.d/kexec-load")
    return machine.facts()


@silent(CheckId.FOREIGN_SCRIPTS)
def a_way_down_on_which_no_script_is_run(machine: Machine) -> Facts:
    openrc(machine)
    machine.write("/etc/init.d/kexec", JUMPS)
    machine.link("/etc/runlevels/default/kexec", "/etc/init.d/kexec")
    return machine.facts(Subject(way=Way.FAST))


@fires(CheckId.OWN_HOOKS, Severity.WARN, "goes through the firmware")
def openrc_without_our_last_hook(machine: Machine) -> Facts:
    machine.write("/run/openrc/softlevel", "default\n")
    return machine.facts()


@fires(CheckId.OWN_HOOKS, Severity.WARN, "goes through the firmware")
def sysvinit_without_our_last_hook(machine: Machine) -> Facts:
    machine.write("/etc/rc6.d/K07reboot")
    return machine.facts()


@fires(CheckId.OWN_HOOKS, Severity.WARN, "kexecd.conf is missing")
def systemd_that_would_load_and_not_jump(machine: Machine) -> Facts:
    systemd(machine)
    machine.link("/etc/systemd/system/multi-user.target.wants/kexecd-preload.service", "/usr/lib/systemd/system/x")
    return machine.facts()


@silent(CheckId.OWN_HOOKS)
def openrc_with_our_last_hook(machine: Machine) -> Facts:
    openrc(machine)
    return machine.facts()


@silent(CheckId.OWN_HOOKS)
def debians_openrc_with_our_last_hook(machine: Machine) -> Facts:
    machine.write("/run/openrc/softlevel", "default\n")
    machine.write("/etc/runlevels/off/kexecd-jump")
    return machine.facts()


@silent(CheckId.OWN_HOOKS)
def sysvinit_with_our_last_hook(machine: Machine) -> Facts:
    sysv(machine)
    return machine.facts()


@silent(CheckId.OWN_HOOKS)
def systemd_that_jumps_by_itself(machine: Machine) -> Facts:
    systemd(machine)
    machine.write("/usr/lib/systemd/system/systemd-reboot.service.d/kexecd.conf")
    machine.link("/etc/systemd/system/multi-user.target.wants/kexecd-preload.service", "/usr/lib/systemd/system/x")
    return machine.facts()


@silent(CheckId.OWN_HOOKS)
def a_fast_way_down_needs_none(machine: Machine) -> Facts:
    machine.write("/run/openrc/softlevel", "default\n")
    return machine.facts(Subject(way=Way.FAST))
