# SPDX-License-Identifier: MIT
"""A bad kernel is put in place and into memory, and the machine is sent into it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.vm.campaign.cases import BAD_INITRD, BAD_KERNEL, Case, Files
from tests.vm.lab.guest import Guest, Mark
from tests.vm.lab.recipe import Init

KEXECCTL = "/usr/sbin/kexecctl"

LOADING = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Staged:
    """An image in memory. seen_coming: whether kexecctl would not load it before a check was left out."""

    nonce: str
    seen_coming: bool


@dataclass(frozen=True, slots=True)
class Sent:
    """A machine on its way. boot_id: of the system that it leaves."""

    nonce: str
    boot_id: str
    mark: Mark


def stage(case: Case, guest: Guest) -> Staged:
    """Load it; where a check refuses it, without that check."""
    if case.before:
        case.before(guest)
    words = [*_files(case, guest), *case.words]
    seen_coming = False
    if case.refused_by:
        done = guest.run(KEXECCTL, "load", *words, timeout=LOADING, check=False)
        seen_coming = done.exit_code != 0 and case.refused_by in done.stderr
        words += ["--ignore", case.refused_by]
    loaded = guest.run(KEXECCTL, "load", *words, "--json", timeout=LOADING)
    if case.after:
        case.after(guest)
    return Staged(json.loads(loaded.stdout)["image"]["nonce"], seen_coming)


def send(guest: Guest, staged: Staged) -> Sent:
    """Into the image that is in memory."""
    boot_id, mark = guest.boot_id(), guest.mark()
    guest.spawn(KEXECCTL, "reboot", "--fast")
    return Sent(staged.nonce, boot_id, mark)


def _files(case: Case, guest: Guest) -> tuple[str, ...]:
    kernel, initrd = good_files(guest)
    files = Files(guest.image.kernel.read_bytes(), guest.image.initrd.read_bytes())
    if case.kernel:
        kernel = BAD_KERNEL
        guest.put(kernel, case.kernel(files))
    if case.initrd:
        initrd = BAD_INITRD
        guest.put(initrd, case.initrd(files))
    return ("--kernel", kernel, "--initrd", initrd)


def good_files(guest: Guest) -> tuple[str, str]:
    """The kernel that the firmware boots, and its initrd, where they lie in the guest."""
    version = guest.uname()
    systemd = guest.image.recipe.init is Init.SYSTEMD
    initrd = f"/boot/initrd.img-{version}" if systemd else f"/boot/initramfs-{version}.img"
    return f"/boot/vmlinuz-{version}", initrd
