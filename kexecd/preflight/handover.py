# SPDX-License-Identifier: MIT
"""What the kernel's handover and live update (Documentation/admin-guide/mm/kho.rst) make of the kernel that is to come,
and whether what applications have handed over will get there (docs/state.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from kexecd.config.policy import IfLost, read_policy
from kexecd.kernel import sysfs
from kexecd.liveupdate import place
from kexecd.model import LoadMethod
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Flaw, Severity

_WITHOUT = "add `--append kho=off` for this one boot: files carry what is handed over"

LIVE_UPDATE = "/dev/liveupdate"  # include/uapi/linux/liveupdate.h
SCRATCH = "/sys/kernel/debug/kho/out/scratch_len"  # kernel/liveupdate/kexec_handover_debugfs.c: one number an area


def space(facts: Facts) -> Iterator[Flaw]:
    """kexec_file_load(2) puts everything into the scratch areas, else it says EADDRNOTAVAIL."""
    target = facts.subject.target
    areas = [int(word, 0) for word in facts.read(SCRATCH).split() if word.isdecimal() or word.startswith("0x")]
    if target is None or not areas or not sysfs.kho(facts.root):
        return
    from kexecd.liveupdate.compatible import kernel_memory, scratch_needed  # late, as all that is imported so here

    kernel, initrd = kernel_memory(target.kernel), sum(file.size for file in target.initrds)
    if words := scratch_needed(areas, kernel, initrd):
        told = ", ".join(_mib(area) for area in areas)
        why = f"with kho=on all of it has to fit into the scratch areas: kernel {_mib(kernel)}, initrd {_mib(initrd)}"
        remedy = f"boot the running kernel with {words} on its command line, or with kho=off"
        yield Flaw(f"{why}, and they have {told}", remedy)


def versions(facts: Facts) -> Iterator[Flaw]:
    """Handed something that it does not know, the new kernel panics, also where nobody has handed anything over."""
    target = facts.subject.target
    if target is None or not facts.exists(LIVE_UPDATE):
        return
    from kexecd.liveupdate.carrier import Fate  # late: see the table
    from kexecd.liveupdate.outlook import outlook_of_file

    seen = outlook_of_file(target.kernel, target.cmdline, facts.root)
    if seen.fate is Fate.PANIC:
        yield Flaw(seen.why, f"restart with --firmware, or {_WITHOUT}")
    elif seen.fate is Fate.UNKNOWN:
        why = f"nobody can tell whether the new kernel would panic of what it is handed: {seen.why}"
        remedy = f"mount debugfs at /sys/kernel/debug, have the running kernel's image in /boot, or {_WITHOUT}"
        yield Flaw(why, remedy, Severity.WARN)


def state(facts: Facts) -> Iterator[Flaw]:
    if not facts.alive or not place.exists(facts.run_dir):
        return
    from kexecd.liveupdate import luo, outlook, steps  # late: see the table
    from kexecd.liveupdate.filestore import FileStore
    from kexecd.liveupdate.index import Carrier
    from kexecd.liveupdate.memory import Lost
    from kexecd.model import Act

    subject, policy, run_dir = facts.subject, read_policy(facts.root), facts.run_dir
    severity = Severity.REFUSE if policy.state_if_lost is IfLost.REFUSE else Severity.WARN
    try:
        told = steps.ask(run_dir, {"do": "status"}, seconds=steps.ASKING) or {}
    except Lost as lost:
        yield Flaw(f"{lost.what}: {lost.why}", lost.hint or "look at `kexecctl state status`", severity)
        return
    if not told.get("count") or os.geteuid():
        return
    image, target = subject.image, subject.target
    kernel = target.kernel.path if target else image.kernel.path if image else ""
    line = target.cmdline if target else image.cmdline if image else sysfs.running_cmdline()
    method = image.method if image else LoadMethod.KEXEC_FILE_LOAD
    disk = FileStore(os.path.join(facts.state_dir, "live"))
    if kernel or not luo.available():
        # Before a restart it is measured by who prepares that.
        rate = disk.rate if target else lambda: 0.0
        forecast = outlook.decision(Act.KEXEC, kernel, line, method, run_dir, policy.state_carrier, rate=rate)
        why = f"{steps.memfds(told['count'])} of applications go {forecast.sentence()}"
        yield Flaw(why, "`kexecctl state list` lists what it is", Severity.NOTE)
        if forecast.carrier is Carrier.FILE:
            try:
                disk.check_room(int(told["bytes"]))
            except Lost as lost:
                yield Flaw(lost.why, lost.hint, severity)


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
