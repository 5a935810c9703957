# SPDX-License-Identifier: MIT
"""The kinds of bad kernel, initrd and command line, a row each: what is bad about it, how the new boot is seen to fail
of just that, what brings the machine back, and what the log has to give as the reason.

Whatever the kernel or the initrd is, it lies beside the good ones, and is named to kexecctl.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.vm.campaign import archives, images, programs
from tests.vm.lab.errors import LabError
from tests.vm.lab.guest import Guest

BAD_KERNEL, BAD_INITRD = "/boot/bad/vmlinuz", "/boot/bad/initrd"

BROKEN_INIT = "/opt/init"

SERVER = "10.0.2.100:7"
"""What the network has to reach: QEMU answers there."""

HEALTHY = "/usr/sbin/modprobe loop"
"""What has to work."""

UNHEALTHY = rf"`{re.escape(HEALTHY)}` ended with exit status [1-9]"
PANICKED = "kernel panic"
NO_WORD = "never reported back"
HUNG = "never reported back: it hung, and the watchdog"


class Back(enum.StrEnum):
    """What brings the machine back."""

    PANIC = "panic="  # the kernel's own word, or the initrd's, which obeys the same
    CONFIRM = "confirm"  # kexecd in the new boot gives it up
    WATCHDOG = "watchdog"  # nobody else can


@dataclass(frozen=True, slots=True)
class Files:
    """The good kernel and initrd, to make bad ones from."""

    kernel: bytes
    initrd: bytes


@dataclass(frozen=True, slots=True)
class Case:
    """One kind. words: for kexecctl, beside kernel and initrd.

    symptom: a regular expression that the new boot's console has, and `silent`: it says nothing at all.
    reason: a regular expression of the attempt's reason, in lower case.
    refused_by: the check that sees it coming, and is left out then.
    before, after: what is done before the image is put into memory, and when it is there.
    lingers: whether the good kernel at the end is looked at until the watchdog's time would be over for it too.
    """

    name: str
    back: Back
    reason: str
    symptom: str = ""
    words: tuple[str, ...] = ()
    kernel: Callable[[Files], bytes] | None = None
    initrd: Callable[[Files], bytes] | None = None
    before: Callable[[Guest], None] | None = None
    after: Callable[[Guest], None] | None = None
    refused_by: str = ""
    lingers: bool = False

    @property
    def silent(self) -> bool:
        return not self.symptom

    @property
    def has_last_words(self) -> bool:
        """Whether the kernel's own last words are the reason."""
        return self.reason == PANICKED


def _broken_init(guest: Guest) -> None:
    """It is there, and its interpreter is not: where the name itself is not there, an initrd takes /sbin/init."""
    guest.put(BROKEN_INIT, b"#!/opt/interpreter\n", mode=0o755)


def _corrupt(guest: Guest) -> None:
    """The image in memory, after kexecctl and the kernel have checked all of it; the kernel's purgatory finds out, just
    before the new kernel would run, and does nothing ever after: arch/x86/purgatory/purgatory.c.
    """
    places = guest.flip(images.sample(guest.image.kernel.read_bytes()))
    if not places:
        raise LabError("the image is nowhere in the guest's memory")


CASES = (
    Case(
        "panic early", Back.PANIC, PANICKED,
        symptom=r"Kernel panic - not syncing: sysrq triggered crash",
        initrd=lambda files: archives.with_init(files.initrd, programs.crash()),
    ),
    Case(
        "panic late", Back.PANIC, PANICKED,
        symptom=r"lab: about to crash",
        words=("--append", "lab.fault=panic"),
    ),
    Case(
        "no root", Back.PANIC, NO_WORD,
        symptom=r"ALERT!\s+/dev/vdz does not exist",
        words=("--set", "root=/dev/vdz"),
        refused_by="root-device",
    ),
    Case(
        "wrong root", Back.PANIC, NO_WORD,
        symptom=r"No init found",
        words=("--set", "root=/dev/vdb"),
    ),
    Case(
        "hang in the kernel", Back.WATCHDOG, HUNG,
        kernel=lambda files: images.hanging(files.kernel),
        lingers=True,
    ),
    Case(
        "hang in userspace", Back.CONFIRM, r"default\.target is|OpenRC is still starting",
        symptom=r"lab: hanging",
        words=("--append", "lab.fault=hang"),
    ),
    Case(
        "init missing", Back.PANIC, PANICKED,
        symptom=rf"run-init: .*{BROKEN_INIT}",
        words=("--set", f"init={BROKEN_INIT}"),
        before=_broken_init,
    ),
    Case(
        "modules missing", Back.PANIC, NO_WORD,
        symptom=r"ALERT!\s+/dev/vda does not exist",
        initrd=lambda files: archives.without(files.initrd, r"virtio_blk\.ko"),
        refused_by="root-driver",
    ),
    Case(
        "network never up", Back.CONFIRM, re.escape(SERVER),
        symptom=r"Module virtio_net is blacklisted",
        words=("--append", "module_blacklist=virtio_net"),
    ),
    Case(
        # That the module is blacklisted would prove nothing: systemd asks for it in every boot (modprobe@loop.service).
        "health check failing", Back.CONFIRM, UNHEALTHY,
        symptom=rf"this boot is given up: .*{UNHEALTHY}",
        words=("--append", "module_blacklist=loop"),
    ),
    Case(
        "out of memory in the initrd", Back.PANIC, PANICKED,
        symptom=r"System is deadlocked on memory",
        initrd=lambda files: archives.with_init(files.initrd, programs.eat()),
    ),
    Case(
        "corrupted after the check", Back.WATCHDOG, HUNG,
        after=_corrupt,
    ),
)  # fmt: skip
