# SPDX-License-Identifier: MIT
"""The kernel's handover and live update, and memory that applications have handed over."""

from __future__ import annotations

import json
import os

from kexecd.config.checks import CheckId
from kexecd.kernel import sysfs
from kexecd.preflight.facts import Facts, Subject
from kexecd.preflight.finding import Severity
from tests.unit.liveupdate.test_compatible import kernel
from tests.unit.preflight.cases import fires, silent
from tests.unit.preflight.machine import Machine

AREAS = "/sys/kernel/debug/kho/out/scratch_len"
BLOB = "/sys/kernel/debug/kho/out/fdt"
ON = "kho=on liveupdate=on"


def with_areas(machine: Machine, *mib: int) -> Facts:
    """And a kernel that takes 40 MiB when it starts."""
    machine.write("/proc/cmdline", f"{ON}\n")
    machine.write(AREAS, "".join(f"{hex(size << 20)}\n" for size in mib))
    return machine.facts(Subject(target=machine.target(kernel=kernel(b"", init_size=40 << 20))))


@fires(CheckId.HANDOVER_SPACE, Severity.REFUSE, "the scratch areas: kernel 40 MiB, initrd 0 MiB, and they have 16 MiB")
def a_kernel_larger_than_the_scratch_areas(machine: Machine) -> Facts:
    return with_areas(machine, 16)


@silent(CheckId.HANDOVER_SPACE)
def a_kernel_that_fits_into_one_of_them(machine: Machine) -> Facts:
    return with_areas(machine, 16, 64)


def speaking(machine: Machine, luo: int, words: str) -> Facts:
    """The running kernel speaks luo-v5, and has live update on."""
    machine.write("/dev/liveupdate")
    machine.write(BLOB, b"\0kho-v4\0luo-v5\0")
    marks = b"\0kho-v4\0luo-v%d\0memfd-v2\0" % luo
    return machine.facts(Subject(target=machine.target(kernel=kernel(marks), cmdline=f"root=/dev/vda1 {words}")))


@fires(CheckId.LIVE_UPDATE_FORMAT, Severity.REFUSE, "it would panic before it has a console")
def a_kernel_that_speaks_another_live_update(machine: Machine) -> Facts:
    return speaking(machine, 6, ON)


@fires(CheckId.LIVE_UPDATE_FORMAT, Severity.WARN, "what the running one speaks cannot be told")
def one_that_speaks_it_where_nobody_knows_what_runs(machine: Machine) -> Facts:
    facts = speaking(machine, 5, ON)
    machine.remove(BLOB)
    return facts


@silent(CheckId.LIVE_UPDATE_FORMAT)
def one_that_speaks_the_same(machine: Machine) -> Facts:
    return speaking(machine, 5, ON)


@silent(CheckId.LIVE_UPDATE_FORMAT)
def another_one_that_is_told_not_to_look(machine: Machine) -> Facts:
    return speaking(machine, 6, f"{ON} kho=off")


def held(machine: Machine, *names: str) -> Facts:
    """By a holder of this boot that was killed."""
    record = {"boot_id": sysfs.boot_id(), "held": [[0, name] for name in names]}
    machine.write("/run/kexecd/held.json", json.dumps(record))
    return machine.facts(alive=True, run_dir=os.path.join(machine.root, "run/kexecd"))


@fires(CheckId.HANDED_OVER, Severity.REFUSE, "their holder has ended, and with it 2 memfds that it held")
def a_holder_that_was_killed(machine: Machine) -> Facts:
    return held(machine, "table", "cache")


@silent(CheckId.HANDED_OVER)
def one_that_had_nothing_in_its_hands(machine: Machine) -> Facts:
    return held(machine)
