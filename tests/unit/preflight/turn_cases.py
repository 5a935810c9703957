# SPDX-License-Identifier: MIT
"""When the firmware is to have its turn."""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import replace
from struct import pack

from kexecd import deny, handoff, history
from kexecd.config.checks import CheckId
from kexecd.deny import Denial
from kexecd.handoff import PendingHandoff
from kexecd.history import Attempt, Outcome
from kexecd.kernel import machine as machines
from kexecd.kernel.files import join_root
from kexecd.model import FileRecord, Way
from kexecd.preflight.facts import Facts, Subject
from kexecd.preflight.finding import Severity
from tests.unit.images import bzimage
from tests.unit.kernel_tree import BOOT_ID
from tests.unit.preflight.cases import fires, silent
from tests.unit.preflight.machine import CMDLINE, NOW, VERSION, Machine

FWUPD = "0abba7dc-e516-4167-bbf5-4d9d1c739416"
NONCE = "0123456789abcdef"
DIGEST = hashlib.sha256(bzimage()).hexdigest()
"""Of the kernel that is in order."""

ATTEMPT = Attempt(
    nonce=NONCE,
    outcome=Outcome.FAILED,
    reason="it never got a network",
    machine="",
    from_release="6.1.0",
    from_boot_id="boot 0",
    to_entry_id="it",
    to_version=VERSION,
    kernel_sha256=DIGEST,
    way=Way.FAST,
    trial=False,
    requested_at=NOW - 100,
    arrived_at=None,
    settled_at=NOW,
    settled_in=BOOT_ID,
    boot_id="boot 1",
)


def state(machine: Machine) -> str:
    return join_root(machine.root, handoff.STATE_DIR)


def failed(
    machine: Machine, *, sha256: str = DIGEST, version: str = VERSION, settled_in: str = "earlier", here: bool = True
) -> None:
    """A kernel has failed, on this machine or another one, and a boot has found that out."""
    fingerprint = machines.fingerprint(machine.root) if here else "another machine"
    denial = Denial(
        machine=fingerprint,
        kernel_sha256=sha256,
        version=version,
        entry_id="it",
        reason=ATTEMPT.reason,
        since=NOW,
        nonce=NONCE,
    )
    history.append(replace(ATTEMPT, kernel_sha256=sha256, to_version=version, settled_in=settled_in), state(machine))
    deny.add(denial, state(machine))


@fires(CheckId.DENIED, Severity.REFUSE, f"a kexec into Linux {VERSION} failed on this machine on")
def the_very_kernel_has_failed(machine: Machine) -> Facts:
    failed(machine, version="by another name", sha256=DIGEST)
    failed(machine)
    return machine.facts()


@fires(CheckId.DENIED, Severity.REFUSE, "it never got a network")
def what_is_in_memory_has_failed(machine: Machine) -> Facts:
    failed(machine)
    image = machine.image()
    return machine.facts(Subject(image=replace(image, kernel=FileRecord("/boot/vmlinuz", 1, DIGEST))))


@fires(CheckId.DENIED, Severity.REFUSE, "a kexec into Linux")
def a_version_has_failed_whose_content_nobody_knows(machine: Machine) -> Facts:
    failed(machine, sha256="")
    return machine.facts()


@fires(CheckId.DENIED, Severity.REFUSE, "the next restart is to be an ordinary one")
def this_boot_came_back_from_another_kernel(machine: Machine) -> Facts:
    failed(machine, sha256="cd" * 32, version="6.9.9", settled_in=BOOT_ID)
    return machine.facts()


@fires(CheckId.DENIED, Severity.REFUSE, "nobody can tell whether this kernel has failed")
def the_list_is_damaged(machine: Machine) -> Facts:
    machine.write(f"{handoff.STATE_DIR}/deny.json", b"\0" * 100)
    return machine.facts()


@silent(CheckId.DENIED)
def another_kernel_has_failed_some_boots_ago(machine: Machine) -> Facts:
    failed(machine, sha256="cd" * 32, version=VERSION)
    return machine.facts()


@silent(CheckId.DENIED)
def it_has_failed_with_other_firmware(machine: Machine) -> Facts:
    failed(machine, here=False)
    return machine.facts()


@silent(CheckId.DENIED)
def it_has_failed_before_this_boot_and_was_forgiven(machine: Machine) -> Facts:
    failed(machine, settled_in=BOOT_ID)
    deny.forgive(VERSION, state(machine))
    return machine.facts()


@silent(CheckId.DENIED, CheckId.FIRMWARE_DEBT, CheckId.FIRMWARE_UPDATE)
def nothing_is_to_be_loaded(machine: Machine) -> Facts:
    failed(machine)
    machine.write("/etc/kexecd/kexecd.yaml", "firmware:\n  after: 1\n")
    kexecs(machine, 5)
    machine.efi("OsIndications", pack("<Q", 4))
    return machine.facts(Subject())


def kexecs(machine: Machine, count: int) -> None:
    """So many in a row have led to this boot."""
    for number in range(count):
        into = BOOT_ID if number == count - 1 else f"boot {number + 1}"
        one = replace(ATTEMPT, nonce=f"{number:016x}", outcome=Outcome.CONFIRMED, from_boot_id=f"boot {number}")
        history.append(replace(one, boot_id=into), state(machine))


@fires(CheckId.FIRMWARE_DEBT, Severity.REFUSE, "3 kexecs in a row")
def as_many_kexecs_as_the_policy_wants_at_most(machine: Machine) -> Facts:
    machine.write("/etc/kexecd/kexecd.yaml", "firmware:\n  after: 3\n")
    kexecs(machine, 3)
    return machine.facts()


@fires(CheckId.FIRMWARE_DEBT, Severity.REFUSE, "3 kexecs in a row")
def one_of_them_is_not_confirmed_yet(machine: Machine) -> Facts:
    machine.write("/etc/kexecd/kexecd.yaml", "firmware:\n  after: 3\n")
    for number in range(2):
        one = replace(ATTEMPT, nonce=f"{number:016x}", outcome=Outcome.CONFIRMED, from_boot_id=f"boot {number}")
        history.append(replace(one, boot_id=f"boot {number + 1}"), state(machine))
    machine.write("/proc/cmdline", f"{CMDLINE} kexecd.nonce={NONCE}\n")
    handoff.write(PendingHandoff(NONCE, "boot 2", "6.1.0", "it", "", Way.FAST, NOW - 100), state(machine))
    return machine.facts()


@silent(CheckId.FIRMWARE_DEBT)
def one_less_than_that(machine: Machine) -> Facts:
    machine.write("/etc/kexecd/kexecd.yaml", "firmware:\n  after: 3\n")
    kexecs(machine, 2)
    return machine.facts()


@silent(CheckId.FIRMWARE_DEBT)
def the_firmware_had_its_turn_meanwhile(machine: Machine) -> Facts:
    machine.write("/etc/kexecd/kexecd.yaml", "firmware:\n  after: 3\n")
    kexecs(machine, 9)
    machine.write("/proc/sys/kernel/random/boot_id", "a boot through the firmware\n")
    return machine.facts()


@silent(CheckId.FIRMWARE_DEBT)
def many_kexecs_where_the_policy_says_nothing(machine: Machine) -> Facts:
    kexecs(machine, 50)
    return machine.facts()


def capsule(machine: Machine, status: int) -> Facts:
    value = bytes(48) + pack("<I", status) + b"\4\1"
    machine.efi("fwupd-61b65ccc-0116-4b62-80ed-ec5f089ae523-0", value, FWUPD)
    return machine.facts()


@fires(CheckId.FIRMWARE_UPDATE, Severity.WARN, "an update of the firmware waits")
def an_update_that_is_to_be_tried(machine: Machine) -> Facts:
    return capsule(machine, 1)


@fires(CheckId.FIRMWARE_UPDATE, Severity.REFUSE, "an update of the firmware waits")
def an_update_where_the_policy_wants_it_done(machine: Machine) -> Facts:
    machine.write("/etc/kexecd/kexecd.yaml", "firmware:\n  updates: refuse\n")
    return capsule(machine, 1)


@fires(CheckId.FIRMWARE_UPDATE, Severity.WARN, "waits on the EFI system partition")
def a_capsule_on_a_disk(machine: Machine) -> Facts:
    machine.efi("OsIndications", pack("<Q", 4))
    return machine.facts()


@silent(CheckId.FIRMWARE_UPDATE)
def an_update_that_nobody_wants_to_hear_of(machine: Machine) -> Facts:
    machine.write("/etc/kexecd/kexecd.yaml", "firmware:\n  updates: ignore\n")
    return capsule(machine, 1)


@silent(CheckId.FIRMWARE_UPDATE)
def an_update_that_has_been_tried(machine: Machine) -> Facts:
    machine.efi("OsIndications", pack("<Q", 1))
    return capsule(machine, 2)


@silent(CheckId.FIRMWARE_UPDATE)
def fwupds_log_is_no_update(machine: Machine) -> Facts:
    machine.efi("FWUPDATE_DEBUG_LOG", pack("<I", 1) * 20, FWUPD)
    return machine.facts()


def updated(machine: Machine, update_state: int) -> Facts:
    """A device has been updated by fwupd (its src/fu-history.c)."""
    path = machine.write("/var/lib/fwupd/pending.db")
    columns = "device_id TEXT, update_state INTEGER DEFAULT 0, display_name TEXT, device_modified INTEGER"
    database = sqlite3.connect(path)
    database.execute(f"CREATE TABLE history ({columns})")
    database.execute("INSERT INTO history VALUES ('x', ?, 'ThinkPad dock', ?)", (update_state, int(NOW)))
    database.commit()
    database.close()
    return machine.facts()


@fires(CheckId.FIRMWARE_UPDATE, Severity.WARN, "fwupd has an update that waits for the next start: ThinkPad dock")
def a_device_that_needs_a_start(machine: Machine) -> Facts:
    return updated(machine, 4)


@fires(CheckId.FIRMWARE_UPDATE, Severity.NOTE, "could not be looked at")
def a_database_that_nobody_can_read(machine: Machine) -> Facts:
    machine.write("/var/lib/fwupd/pending.db", "this is no database" * 100)
    return machine.facts()


@silent(CheckId.FIRMWARE_UPDATE)
def a_device_that_is_done(machine: Machine) -> Facts:
    return updated(machine, 2)


def processor(machine: Machine, running: int, installed: int, flags: str = "fpu sse") -> Facts:
    machine.write(
        "/proc/cpuinfo",
        "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 158\nstepping\t: 10\n"
        f"flags\t\t: {flags}\n\nprocessor\t: 1\n",
    )
    machine.write("/sys/devices/system/cpu/cpu0/microcode/version", f"{running:#x}\n")
    machine.write("/sys/devices/system/cpu/cpu0/microcode/processor_flags", "0x2\n")
    header = pack("<9I12x", 1, installed, 0, 0x906EA, 0, 1, 0x22, 16, 64)
    machine.write("/lib/firmware/intel-ucode/06-9e-0a", header + bytes(16))
    return machine.facts()


@fires(CheckId.FIRMWARE_UPDATE, Severity.WARN, "has the processor's microcode 0xf4, and 0xf0 runs")
def newer_microcode_is_installed(machine: Machine) -> Facts:
    return processor(machine, 0xF0, 0xF4)


@silent(CheckId.FIRMWARE_UPDATE)
def the_microcode_that_is_installed_runs(machine: Machine) -> Facts:
    return processor(machine, 0xF4, 0xF4)


@silent(CheckId.FIRMWARE_UPDATE)
def a_virtual_machine_with_any_microcode(machine: Machine) -> Facts:
    return processor(machine, 1, 0xF4, "fpu hypervisor")
