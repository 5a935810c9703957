# SPDX-License-Identifier: MIT
"""A saved guest: its overlays with its memory inside, and what its console had said until then."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.vm.lab.hardware import Hardware
from tests.vm.lab.image import GuestImage
from tests.vm.lab.machine import qemu_version


@dataclass(frozen=True)
class Snapshot:
    """A guest at one moment.

    Its files are never written to again: a guest that goes on from it gets copies.
    """

    image: GuestImage
    hardware: Hardware
    directory: Path
    name: str

    @property
    def console(self) -> tuple[str, ...]:
        """The console lines up to the snapshot."""
        return tuple(_console_file(self.directory).read_text(encoding="utf-8").splitlines())

    def copy_disks(self, workdir: Path) -> None:
        """Put copies of all that the guest writes to into `workdir`."""
        for name in self.hardware.files:
            shutil.copyfile(self.directory / name, workdir / name)


def save_console(directory: Path, lines: tuple[str, ...]) -> None:
    """Keep a guest's console lines beside its overlays."""
    _console_file(directory).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def snapshot_key(image: GuestImage, hardware: Hardware) -> str:
    """Twelve hex digits over all that a saved machine depends on.

    The overlays name the image by path, so that counts too.
    """
    text = "\0".join((image.key, str(image.directory), qemu_version(), repr(hardware)))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _console_file(directory: Path) -> Path:
    return directory / "console.txt"
