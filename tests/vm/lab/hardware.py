# SPDX-License-Identifier: MIT
"""The virtual machine that a guest runs on, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.vm.lab.accel import Accel, best_accel
from tests.vm.lab.image import GuestImage


@dataclass(frozen=True)
class Hardware:
    """What decides whether a snapshot taken on one machine can go on in another."""

    accel: Accel
    memory_mib: int
    cpus: int
    kernel: Path
    initrd: Path
    cmdline: str
    extra_qemu: tuple[str, ...] = ()


def hardware_for(
    image: GuestImage,
    *,
    memory_mib: int = 768,
    cpus: int = 2,
    extra_cmdline: str = "",
    extra_qemu: tuple[str, ...] = (),
) -> Hardware:
    """The machine that boots `image` here, with the best accelerator that this host has."""
    cmdline = f"{image.recipe.cmdline} {extra_cmdline}".strip()
    accel = best_accel(image.kernel)
    return Hardware(accel, memory_mib, cpus, image.kernel, image.initrd, cmdline, tuple(extra_qemu))
