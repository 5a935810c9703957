# SPDX-License-Identifier: MIT
"""A guest that has booted already: booted once, saved in the cache, and started from there by every test."""

from __future__ import annotations

from tests.vm.lab import cache
from tests.vm.lab.guest import Guest
from tests.vm.lab.hardware import hardware_for
from tests.vm.lab.image import GuestImage
from tests.vm.lab.progress import step
from tests.vm.lab.snapshot import Snapshot, snapshot_key

SNAPSHOT_NAME = "booted"

BOOT_TIMEOUT = 180.0
"""Seconds for a first boot on a slow CI machine; a quiet one needs a tenth of it."""


def booted(
    image: GuestImage,
    *,
    memory_mib: int = 768,
    cpus: int = 2,
    extra_cmdline: str = "",
    extra_qemu: tuple[str, ...] = (),
) -> Snapshot:
    """The snapshot of `image` after its boot, from the cache or newly made."""
    hardware = hardware_for(
        image, memory_mib=memory_mib, cpus=cpus, extra_cmdline=extra_cmdline, extra_qemu=extra_qemu
    )
    directory = image.directory / f"snapshot-{snapshot_key(image, hardware)}"
    if not directory.is_dir():
        with cache.build_lock():
            if not directory.is_dir():
                with (
                    step(f"first boot of {image.recipe.name} ({hardware.accel.name})"),
                    cache.new_directory(directory) as scratch,
                    Guest.start_on(hardware, image, workdir=scratch) as guest,
                ):
                    guest.wait_ready(BOOT_TIMEOUT)
                    guest.snapshot(SNAPSHOT_NAME)
    return Snapshot(image, hardware, directory, SNAPSHOT_NAME)
