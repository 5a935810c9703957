# SPDX-License-Identifier: MIT
"""Whether the running kernel will take an image: rights, switches, lockdown, signatures, and who else is at it.

What the kernel answers, and when, is in kexecd.kernel.kexec_errors; here it is found without spending a call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from kexecd.errors import ExitCode
from kexecd.kernel import kexec_errors, kexec_tools, proc, sysfs
from kexecd.kernel.files import join_root
from kexecd.kernel.kexec_errors import Cause
from kexecd.model import Way
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Flaw, Severity

LIVE_UPDATE = "/dev/liveupdate"  # include/uapi/linux/liveupdate.h
SESSION = "anon_inode:[luo_session]"
LOOKING = 0.2
"""Seconds of CPU for a look at who has a live update session open."""

FEW_CALLS = 2
"""One load, and one more to take it back."""


def capability(facts: Facts) -> Iterator[Flaw]:
    if _is_machine(facts) and not sysfs.has_cap_sys_boot(facts.root):
        yield _flaw(kexec_errors.NO_CAPABILITY)


def kexec_support(facts: Facts) -> Iterator[Flaw]:
    if _is_machine(facts) and not sysfs.kexec_supported(facts.root):
        why = "the running kernel says nothing about kexec in /sys/kernel"
        yield Flaw(why, "look whether /sys is mounted, and boot a kernel with CONFIG_KEXEC_FILE=y")


def load_disabled(facts: Facts) -> Iterator[Flaw]:
    if sysfs.kexec_load_disabled(facts.root) and not facts.subject.image:
        yield _flaw(kexec_errors.SWITCHED_OFF)


def load_limit(facts: Facts) -> Iterator[Flaw]:
    left = sysfs.kexec_load_limit_reboot(facts.root)
    if left is None or facts.subject.image:
        return
    if left == 0:
        yield _flaw(kexec_errors.EXHAUSTED)
    elif left < FEW_CALLS:
        why = f"kernel.kexec_load_limit_reboot is {left}: what is loaded cannot be taken out of memory again"
        yield Flaw(why, kexec_errors.EXHAUSTED.hint, Severity.WARN)


def lockdown(facts: Facts) -> Iterator[Flaw]:
    if (image := facts.kernel) and kexec_errors.locked_down(facts.root) and not image.signed:
        mode = sysfs.lockdown(facts.root)
        yield Flaw(f"the kernel is locked down ({mode}), and {_kernel(facts)} carries no signature", _SIGN)


def secure_boot(facts: Facts) -> Iterator[Flaw]:
    on = (facts.efi("SecureBoot") or b"")[:1] == b"\1"
    if on and (image := facts.kernel) and not image.signed and not kexec_errors.locked_down(facts.root):
        yield Flaw(
            f"Secure Boot is on, and {_kernel(facts)} carries no signature: the firmware would not start it", _SIGN
        )


def tools(facts: Facts) -> Iterator[Flaw]:
    from kexecd.config.kexec_options import Method  # late: only where something is to be loaded

    settings = facts.subject.settings
    if settings is None or settings.kexec_options.method is not Method.TOOLS:
        return
    asks = f"{settings.origin('kexec_options')} asks for kexec-tools"
    if not any(facts.exists(path) for path in kexec_tools.CANDIDATES):
        yield Flaw(f"{asks}, and there is no {' and no '.join(kexec_tools.CANDIDATES)}", "install kexec-tools")
    if kexec_errors.locked_down(facts.root):
        why = f"{asks}, which cannot load anything while the kernel is locked down"
        yield Flaw(why, "take that option out of KEXEC_OPT_ARGS", code=ExitCode.FORBIDDEN)


def live_update(facts: Facts) -> Iterator[Flaw]:
    """A session dies with its descriptor (Documentation/userspace-api/liveupdate.rst), and so does what it keeps."""
    if not facts.alive or not facts.exists(LIVE_UPDATE):
        return
    device, end = join_root(facts.root, LIVE_UPDATE), time.process_time() + LOOKING
    for process in facts.processes:
        if time.process_time() > end:
            yield Flaw("looking for live update sessions takes too long", "look for them by hand", Severity.NOTE)
            return
        if process.kernel_thread or (process.pid == 1 and facts.subject.way is Way.ORDERLY):
            continue  # PID 1 hands its own ones on by itself
        # Who is spared on the way down (https://systemd.io/ROOT_STORAGE_DAEMONS) keeps it until the jump; so does ours.
        if _has_open(process.pid, device) and not proc.argv0(process).startswith("@"):
            why = f"{process.name} ({process.pid}) has a live update session, whose memory this restart would lose"
            yield Flaw(why, f"let {process.name} finish it, or let it do the restart")


def _has_open(pid: int, device: str) -> bool:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        try:
            link = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if link == device or link.startswith(SESSION):
            return True
    return False


_SIGN = "sign the kernel with a key that this machine trusts, or restart through the firmware"


def _is_machine(facts: Facts) -> bool:
    """Not a tree in which nothing of a running system was captured."""
    return facts.root == "/" or facts.exists("/proc/self/status")


def _kernel(facts: Facts) -> str:
    return facts.subject.target.kernel.path if facts.subject.target else "the kernel"


def _flaw(cause: Cause) -> Flaw:
    return Flaw(cause.why, cause.hint, code=cause.refusal.exit_code)
