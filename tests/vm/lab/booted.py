# SPDX-License-Identifier: MIT
"""A guest that has booted already: booted once, saved in the cache, and started from there by every test.

Where a boot loader starts it, or its root lies on more than a disk, that was made before, in a boot that served for
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.vm.lab import cache, provision
from tests.vm.lab.guest import Guest
from tests.vm.lab.hardware import Hardware, hardware_for
from tests.vm.lab.image import GuestImage
from tests.vm.lab.progress import step
from tests.vm.lab.snapshot import Snapshot, snapshot_key

SNAPSHOT_NAME = "booted"

BOOT_TIMEOUT = 180.0
"""Seconds for a first boot on a slow CI machine; a quiet one needs a tenth of it."""

INSTALL_TIMEOUT = 600.0
"""Seconds for what is installed in the guest, which is emulated, on a slow CI machine."""


def booted(
    image: GuestImage,
    *,
    memory_mib: int = 768,
    cpus: int = 2,
    extra_cmdline: str = "",
    extra_qemu: tuple[str, ...] = (),
    kernel: Path | None = None,
) -> Snapshot:
    """The snapshot of `image` after its boot, from the cache or newly made.

    extra_cmdline counts only where there is no boot loader, which has a command line of its own. kernel: one that needs
    no initrd, instead of the image's own.
    """
    hardware = hardware_for(
        image, memory_mib=memory_mib, cpus=cpus, extra_cmdline=extra_cmdline, extra_qemu=extra_qemu
    )
    hardware = replace(hardware, direct=not image.recipe.loader.on_disk)
    if kernel:
        hardware = replace(hardware, kernel=kernel, initrd=None)
    directory = image.directory / f"snapshot-{snapshot_key(image, hardware)}"

    def boot(workdir: Path) -> None:
        with _start(hardware, image, workdir) as guest:
            guest.wait_ready(BOOT_TIMEOUT)
            guest.snapshot(SNAPSHOT_NAME)

    _make(directory, f"first boot of {image.recipe.name} ({hardware.accel.name})", boot)
    return Snapshot(image, hardware, directory, SNAPSHOT_NAME)


def with_later_kernels(snapshot: Snapshot) -> Snapshot:
    """The guest of `snapshot` after it has installed its recipe's later kernels, and the distribution's hooks
    have told its boot loader about them; from the cache or newly made.
    """
    name = snapshot.image.recipe.name
    directory = snapshot.directory.with_name(f"{snapshot.directory.name}-later")

    def install(workdir: Path) -> None:
        with Guest.from_snapshot(snapshot, workdir=workdir) as guest:
            guest.run("/bin/sh", "-c", provision.INSTALL_LATER, timeout=INSTALL_TIMEOUT)
            guest.snapshot(SNAPSHOT_NAME)  # in the place of the one that it came from

    _make(directory, f"{name} installs {', '.join(snapshot.image.recipe.later_kernels)}", install)
    return replace(snapshot, directory=directory)


def _start(hardware: Hardware, image: GuestImage, workdir: Path) -> Guest:
    """The guest, switched on; with its boot loader where it has one."""
    recipe = image.recipe
    if recipe.storage:
        installer = replace(
            hardware, cmdline=recipe.storage.installer_cmdline, extra_qemu=_installer_disks(image.system)
        )
        what, setup = "lays its storage out", recipe.storage.setup_script
    elif recipe.loader.on_disk:
        installer = replace(hardware, direct=True)
        what, setup = f"installs {recipe.loader}", recipe.loader.setup
    else:
        return Guest.start_on(hardware, image, workdir=workdir)
    with step(f"{recipe.name} {what}"), Guest.start_on(installer, image, workdir=workdir) as guest:
        guest.wait_ready(BOOT_TIMEOUT)
        guest.run("/bin/sh", "-c", setup, timeout=INSTALL_TIMEOUT)
        guest.power_off()
    return Guest.start_again(hardware, image, workdir=workdir)


def _installer_disks(system: Path) -> tuple[str, ...]:
    """The plain system twice: to run from, with what it writes thrown away; and untouched, to be copied."""
    where = str(system).replace(",", ",,")
    arguments = []
    for name, how in (("installer", "snapshot=on"), ("system", "readonly=on")):
        arguments += [
            "-drive", f"if=none,id={name},format=raw,cache=unsafe,{how},file={where}",
            "-device", f"virtio-blk-pci,drive={name}",
        ]  # fmt: skip
    return tuple(arguments)


def _make(directory: Path, what: str, fill: Callable[[Path], None]) -> None:
    if directory.is_dir():
        return
    with cache.build_lock():
        if not directory.is_dir():
            with step(what), cache.new_directory(directory) as scratch:
                fill(scratch)
