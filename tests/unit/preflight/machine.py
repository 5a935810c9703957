# SPDX-License-Identifier: MIT
"""A machine with which everything is in order, to take something away from: what it says in /proc, /sys, /dev and /etc.

Its root is an ext4 on a virtio disk, whose driver is a module.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kexecd.config.settings import Settings
from kexecd.kernel.files import open_regular
from kexecd.model import BootEntry, BootTarget, Choice, FileRecord, ImageRecord, LoadMethod, Source
from kexecd.preflight.facts import EFI_GLOBAL, Facts, Subject
from tests.unit.images import bzimage
from tests.unit.initrds import newc
from tests.unit.kernel_tree import KernelTree

VERSION = "6.1.0-50-amd64"
UUID = "5a3d4c0e-1111-4222-8333-444455556666"
CMDLINE = f"root=UUID={UUID} ro"
NOW = 1_700_000_000.0  # seconds since the epoch
MODULES = f"usr/lib/modules/{VERSION}/kernel"
PCI = "/sys/devices/pci0000:00/0000:00:04.0"
MOUNTINFO = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n"
INITRD = (
    *("usr/", "usr/lib/", "usr/lib/modules/", f"usr/lib/modules/{VERSION}/", f"{MODULES}/"),
    *(f"{MODULES}/drivers/block/virtio_blk.ko", f"{MODULES}/drivers/virtio/virtio_pci.ko", f"{MODULES}/fs/ext4.ko.xz"),
)


class Machine:
    def __init__(self, path: Path, opened: ExitStack) -> None:
        """opened: holds what is open as long as the machine is looked at."""
        self.path, self.root, self.opened = path, str(path), opened
        KernelTree(path)
        self.write("/proc/self/mountinfo", MOUNTINFO)
        self.write("/proc/modules", "ext4 1 1 - Live 0x0\nvirtio_blk 1 1 - Live 0x0\nvirtio_pci 1 1 - Live 0x0\n")
        self.write("/proc/swaps", "Filename Type Size Used Priority\n")
        self.write(f"/lib/modules/{VERSION}/modules.builtin", "kernel/drivers/scsi/sd_mod.ko\n")
        self.write(f"{PCI}/virtio1/block/vda/vda1/dev", "254:1\n")
        self.link("/sys/class/block/vda", f"../..{PCI.removeprefix('/sys')}/virtio1/block/vda")
        self.link("/sys/class/block/vda1", f"../..{PCI.removeprefix('/sys')}/virtio1/block/vda/vda1")
        self.driver(f"{PCI}/virtio1", "/sys/bus/virtio/drivers/virtio_blk", "virtio_blk")
        self.driver(PCI, "/sys/bus/pci/drivers/virtio-pci", "virtio_pci")
        self.link(f"/dev/disk/by-uuid/{UUID}", "../../vda1")
        self.write("/dev/vda1")
        self.dog("inactive", 60)

    def dog(self, state: str, seconds: int, *, stop_on_reboot: int = 0) -> None:
        """Its hardware watchdog, and whether the kernel switches that off at a restart; -1: its driver decides."""
        self.write("/sys/module/watchdog/parameters/stop_on_reboot", f"{stop_on_reboot}\n")
        for name, text in (("state", state), ("timeout", str(seconds)), ("identity", "iTCO_wdt"), ("nowayout", "0")):
            self.write(f"/sys/class/watchdog/watchdog0/{name}", f"{text}\n")

    def write(self, path: str, content: str | bytes = "") -> Path:
        place = self.path / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        return place

    def remove(self, path: str) -> None:
        (self.path / path.lstrip("/")).unlink()

    def link(self, path: str, target: str) -> None:
        place = self.path / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def driver(self, device: str, driver: str, module: str) -> None:
        """Bind a device, as sysfs shows it: links from it to its driver, and from that to its module."""
        self.write(f"/sys/module/{module}/initstate", "live\n")
        if not os.path.lexists(self.root + driver):
            self.link(f"{driver}/module", f"/sys/module/{module}")
        self.link(f"{device}/driver", driver)

    def efi(self, name: str, value: bytes, vendor: str = EFI_GLOBAL) -> None:
        self.write(f"/sys/firmware/efi/efivars/{name}-{vendor}", b"\7\0\0\0" + value)

    def target(
        self,
        *,
        kernel: bytes = b"",
        initrds: tuple[bytes, ...] | None = None,
        cmdline: str = CMDLINE,
        version: str = VERSION,
        **entry: Any,
    ) -> BootTarget:
        """What would be booted; its files are real, and open."""
        files = []
        contents = (newc(*INITRD),) if initrds is None else initrds
        for number, content in enumerate((kernel or bzimage(), *contents)):
            path = self.write(f"/boot/{number}-{len(os.listdir(self.path))}", content)
            files.append(open_regular(str(path), "a test's boot target"))
            self.opened.callback(os.close, files[-1].fd)
        made = BootEntry(
            **{"id": "it", "title": "it", "source": Source.BLS, "kernel": files[0].path, **entry}, version=version
        )
        return BootTarget(made, files[0], tuple(files[1:]), cmdline, "0123456789abcdef")

    def image(self, *, version: str = VERSION, cmdline: str = CMDLINE, loaded_at: float = NOW) -> ImageRecord:
        """What is in memory, made of a kernel that is there; it was there when it was loaded."""
        place = self.write("/boot/vmlinuz", bzimage())
        os.utime(place, (loaded_at - 10, loaded_at - 10))
        self.write("/sys/kernel/kexec_loaded", "1\n")
        file = FileRecord("/boot/vmlinuz", place.stat().st_size, "")
        return ImageRecord(
            entry_id="it",
            version=version,
            kernel=file,
            initrds=(),
            cmdline=cmdline,
            nonce="0123456789abcdef",
            method=LoadMethod.KEXEC_FILE_LOAD,
            loaded_at=loaded_at,
        )

    def facts(self, subject: Subject | None = None, **options: Any) -> Facts:
        """A look at it; by itself at the target that is in order."""
        if subject is None:
            target = self.target()
            subject = Subject(target=target, settings=Settings(), choice=Choice(target.entry, "it is the newest"))
        return Facts(self.root, subject, **{"processes": (), "now": lambda: NOW, **options})
