# SPDX-License-Identifier: MIT
"""What kexecd chooses is what the boot loader boots: each is asked, and then the machine restarts through its firmware.

GRUB starts from a BIOS here and systemd-boot from UEFI. Both were installed by their own tools, in the guest, and so
was the newer of the two kernels: Debian's hooks told the boot loader about it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kexecd.kernel import cmdline
from kexecd.kernel.cmdline import STALE
from tests.vm.lab.booted import booted, with_later_kernels
from tests.vm.lab.delivery import deliver
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest
from tests.vm.lab.image import BARE, build
from tests.vm.lab.oracle import judge
from tests.vm.lab.recipe import DEBIAN12_GRUB, DEBIAN12_SYSTEMD_BOOT, Recipe
from tests.vm.lab.snapshot import Snapshot

OLDER, NEWER = "6.1.", "6.12."

Parameters = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Boot:
    """A kernel, and what it was told: without what tells about one boot only, and however it was quoted."""

    version: str
    parameters: Parameters


@dataclass(frozen=True)
class BootLoader:
    """A boot loader, and how its own tools are told which kernel to take."""

    recipe: Recipe
    entry: Callable[[Guest, str], str]  # its own name for the entry of a kernel
    once: tuple[str, ...]
    always: tuple[str, ...]

    def boot_once(self, guest: Guest, version: str) -> None:
        guest.run(*self.once, self.entry(guest, version))

    def boot_always(self, guest: Guest, version: str) -> None:
        guest.run(*self.always, self.entry(guest, version))


def in_grub(guest: Guest, version: str) -> str:
    """The submenu, and in it the entry that is not the recovery mode, by the ids that grub-mkconfig gave them."""
    ids = re.findall(r"\$menuentry_id_option '([^']+)'", guest.get("/boot/grub/grub.cfg").decode())
    submenu = next(id for id in ids if id.startswith("gnulinux-advanced-"))
    entry = next(id for id in ids if id.startswith(f"gnulinux-{version}-advanced-"))
    return f"{submenu}>{entry}"


def in_systemd_boot(guest: Guest, version: str) -> str:
    files = guest.run("ls", "/boot/efi/loader/entries").stdout.split()
    return next(name for name in files if name.endswith(f"-{version}.conf"))


GRUB = BootLoader(DEBIAN12_GRUB, in_grub, ("grub-reboot",), ("grub-set-default",))
SYSTEMD_BOOT = BootLoader(
    DEBIAN12_SYSTEMD_BOOT, in_systemd_boot, ("bootctl", "set-oneshot"), ("bootctl", "set-default")
)


@pytest.fixture(scope="module", params=[GRUB, SYSTEMD_BOOT], ids=lambda loader: str(loader.recipe.loader))
def loader(request: pytest.FixtureRequest) -> BootLoader:
    found: BootLoader = request.param
    return found


@pytest.fixture(scope="module")
def installed(loader: BootLoader) -> Snapshot:
    """One kernel, and the boot loader as it was installed; it has booted this very system."""
    return booted(build(loader.recipe, BARE))


@pytest.fixture
def updated(installed: Snapshot, tmp_path: Path) -> Iterator[Guest]:
    """The older kernel runs and the newer one has just been installed."""
    with Guest.from_snapshot(with_later_kernels(installed), workdir=tmp_path) as guest:
        deliver(guest)
        yield guest


def version(guest: Guest, start: str) -> str:
    """The installed kernel whose version begins so."""
    (found,) = guest.run("sh", "-c", f"cd /boot && ls -d vmlinuz-{start}*").stdout.split()
    return found.removeprefix("vmlinuz-")


def parameters(text: str) -> Parameters:
    return tuple((one.key, one.value) for one in cmdline.parse(text).kernel if one.key not in STALE)


def chosen(guest: Guest) -> Boot:
    """What kexecd would boot."""
    told = json.loads(guest.run("/usr/sbin/kexecctl", "entries", "--json", timeout=60).stdout)
    (entry,) = (entry for entry in told["entries"] if entry["default"])
    assert entry["id"] == told["chosen"]["id"]
    assert told["chosen"]["reason"]
    assert entry["cmdline"] is not None, f"nobody asked the boot loader: {told}"
    for file in (entry["kernel"], *entry["initrd"]):
        guest.run("test", "-s", file)
    return Boot(entry["version"], parameters(entry["cmdline"]))


def running(guest: Guest) -> Boot:
    """What the boot loader has booted."""
    return Boot(guest.uname(), parameters(guest.cmdline()))


def restart(guest: Guest) -> Boot:
    """Restart through the firmware and the boot loader, and look what it takes."""
    old, mark = guest.boot_id(), guest.mark()
    guest.spawn("systemctl", "reboot")
    seen = judge(guest, mark, None, old)
    assert seen.kind is Kind.FIRMWARE and not seen.recovered, seen.explain()
    return running(guest)


def test_as_it_was_installed(installed: Snapshot, tmp_path: Path) -> None:
    with Guest.from_snapshot(installed, workdir=tmp_path) as guest:
        deliver(guest)
        assert chosen(guest) == running(guest)


def test_a_kernel_that_was_just_installed(updated: Guest) -> None:
    choice = chosen(updated)
    assert choice.version == version(updated, NEWER)
    assert restart(updated) == choice


def test_an_entry_for_the_next_boot_only(updated: Guest, loader: BootLoader) -> None:
    by_default = chosen(updated)
    loader.boot_once(updated, version(updated, OLDER))
    once = chosen(updated)
    assert once.version == version(updated, OLDER)
    assert restart(updated) == once
    assert chosen(updated) == by_default  # the boot loader has used it up
    assert restart(updated) == by_default


def test_another_default(updated: Guest, loader: BootLoader) -> None:
    loader.boot_always(updated, version(updated, OLDER))
    choice = chosen(updated)
    assert choice.version == version(updated, OLDER)
    assert restart(updated) == choice
