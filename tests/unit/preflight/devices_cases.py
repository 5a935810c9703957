# SPDX-License-Identifier: MIT
from __future__ import annotations

from kexecd.config.checks import CheckId
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Severity
from tests.unit.preflight.cases import fires, silent
from tests.unit.preflight.machine import Machine

DMI = "/sys/class/dmi/id"
NVIDIA = "/sys/bus/pci/drivers/nvidia"


@fires(CheckId.HYPERVISOR, Severity.REFUSE, "bhyve")
def a_guest_of_bhyve(machine: Machine) -> Facts:
    machine.write(f"{DMI}/product_name", "BHYVE\n")
    return machine.facts()


@fires(CheckId.HYPERVISOR, Severity.WARN, "Xen")
def a_guest_of_xen(machine: Machine) -> Facts:
    machine.write("/sys/hypervisor/type", "xen\n")
    return machine.facts()


@silent(CheckId.HYPERVISOR)
def a_guest_of_hyper_v_that_is_not_on_azure(machine: Machine) -> Facts:
    machine.write(f"{DMI}/sys_vendor", "Microsoft Corporation\n")
    machine.write(f"{DMI}/product_name", "Virtual Machine\n")
    machine.write(f"{DMI}/chassis_asset_tag", "\n")
    return machine.facts()


@silent(CheckId.HYPERVISOR)
def a_product_whose_name_only_begins_so(machine: Machine) -> Facts:
    machine.write(f"{DMI}/product_name", "Google Compute Engine Gateway\n")
    return machine.facts()


@silent(CheckId.HYPERVISOR)
def a_guest_of_kvm(machine: Machine) -> Facts:
    machine.write(f"{DMI}/sys_vendor", "QEMU\n")
    machine.write(f"{DMI}/product_name", "Standard PC (Q35 + ICH9, 2009)\n")
    return machine.facts()


@fires(CheckId.MACHINE, Severity.REFUSE, "Raspberry Pi 5")
def a_raspberry_pi_5(machine: Machine) -> Facts:
    machine.write("/proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    return machine.facts()


@fires(CheckId.MACHINE, Severity.WARN, "hang in every kexec")
def an_n5105(machine: Machine) -> Facts:
    machine.write("/proc/cpuinfo", "processor\t: 0\nmodel name\t: Intel(R) Celeron(R) N5105 @ 2.00GHz\n")
    return machine.facts()


@silent(CheckId.MACHINE)
def a_raspberry_pi_3(machine: Machine) -> Facts:
    machine.write("/proc/device-tree/model", "Raspberry Pi 3 Model B Plus Rev 1.3\0")
    return machine.facts()


@fires(CheckId.DRIVERS, Severity.WARN, "NVIDIA")
def a_gpu_that_nvidia_drives(machine: Machine) -> Facts:
    machine.write(f"{NVIDIA}/bind")
    machine.link(f"{NVIDIA}/0000:01:00.0", "../../../../devices/pci0000:00/0000:01:00.0")
    return machine.facts()


@silent(CheckId.DRIVERS)
def a_driver_without_a_device(machine: Machine) -> Facts:
    for name in ("bind", "new_id", "remove_id", "uevent", "unbind"):
        machine.write(f"{NVIDIA}/{name}")
    machine.link(f"{NVIDIA}/module", "../../../../module/nvidia")
    return machine.facts()
