# SPDX-License-Identifier: MIT
"""The virtual machine that a guest runs on, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.vm.lab.accel import Accel, best_accel
from tests.vm.lab.image import GuestImage
from tests.vm.lab.loaders import Firmware

ROOT, DATA, EFI_VARIABLES = "root.qcow2", "data.qcow2", "efivars.qcow2"


@dataclass(frozen=True)
class Hardware:
    """What decides whether a snapshot taken on one machine can go on in another."""

    accel: Accel
    memory_mib: int
    cpus: int
    kernel: Path
    initrd: Path | None
    cmdline: str
    extra_qemu: tuple[str, ...] = ()
    firmware: Firmware = Firmware.BIOS
    direct: bool = True
    """Whether QEMU puts `kernel` into memory itself; else the firmware boots what was installed on the root disk."""

    disks: tuple[str, ...] = field(default=(), repr=False)
    """The files of further disks, after root and data. Not in a snapshot's key: the image's key names them already."""

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files that this machine writes to, in its working directory."""
        variables = (EFI_VARIABLES,) if self.firmware is Firmware.UEFI else ()
        return (ROOT, DATA, *self.disks, *variables)


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
    return Hardware(
        accel, memory_mib, cpus, image.kernel, image.initrd, cmdline, tuple(extra_qemu),
        firmware=image.recipe.loader.firmware,
        disks=tuple(f"{path.stem}.qcow2" for path in image.disks),
    )  # fmt: skip
