# SPDX-License-Identifier: MIT
"""The guests, a column each, as their administrator has them: kexecd installed, and each restart is a kexec."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.vm.lab.booted import booted
from tests.vm.lab.guest import Guest
from tests.vm.lab.image import BARE, build
from tests.vm.lab.loaders import Loader
from tests.vm.lab.packaged import administer, administered
from tests.vm.lab.recipe import (
    DEBIAN12_OPENRC,
    DEBIAN12_SYSTEMD,
    DEBIAN12_SYSTEMD_BOOT,
    DEBIAN12_SYSVINIT,
    DEBIAN13_SYSTEMD,
    GENTOO_OPENRC_INIT,
    GENTOO_SYSVINIT,
    Recipe,
)
from tests.vm.lab.snapshot import Snapshot

GUESTS = (
    DEBIAN12_SYSTEMD,
    DEBIAN13_SYSTEMD,
    DEBIAN12_SYSVINIT,
    DEBIAN12_OPENRC,
    GENTOO_OPENRC_INIT,
    GENTOO_SYSVINIT,
    DEBIAN12_SYSTEMD_BOOT,
)


def start(recipe: Recipe, workdir: Path) -> Guest:
    """A guest that has just booted, ready for a door to be taken; the caller stops it."""
    guest = Guest.from_snapshot(_snapshot(recipe), workdir=workdir)
    if recipe.loader is Loader.QEMU:
        return guest
    try:
        administer(guest, workdir / "package")
    except BaseException:
        guest.stop()
        raise
    return guest


@functools.cache
def _snapshot(recipe: Recipe) -> Snapshot:
    """Once a run: all cells of one are about the same project, whatever is changed meanwhile."""
    if recipe.loader is Loader.QEMU:
        return booted(build(recipe, administered(recipe.init)), cpus=1)
    # Its boot loader is installed in the guest, which takes too long for every change of the project.
    return booted(build(recipe, BARE), cpus=1)
