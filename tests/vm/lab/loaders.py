# SPDX-License-Identifier: MIT
"""Who puts the kernel into memory when a guest is switched on, and how that one gets onto its disk.

A boot loader is installed by its own tools, in the guest, on the guest's own disk: what kexecd's choice is
compared with must not have been written by us.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

# A value with a space in it, because each boot loader has a way of its own to hand that on: GRUB moves the quotes
# to the beginning of the word, systemd-boot leaves them where they are.
WORDS = 'console=ttyS0,115200 lab.words="one two"'

GRUB_SETTINGS = f"""\
GRUB_DEFAULT=saved
GRUB_TIMEOUT=0
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX='{WORDS}'
"""

GRUB_SETUP = """\
set -eu
grub-install /dev/vda
update-grub
"""

SYSTEMD_BOOT_SETUP = f"""\
set -eu
mkfs.vfat -F 32 -n ESP /dev/vda1
mkdir -p /boot/efi
echo '/dev/vda1 /boot/efi vfat umask=0077 0 2' >> /etc/fstab
mount /boot/efi
mkdir -p /etc/kernel
printf 'root=UUID=%s ro %s\\n' "$(findmnt --noheadings --output=UUID /)" '{WORDS}' > /etc/kernel/cmdline
bootctl install
for kernel in /boot/vmlinuz-*; do
    version="${{kernel#/boot/vmlinuz-}}"
    kernel-install add "$version" "$kernel" "/boot/initrd.img-$version"
done
"""


@dataclass(frozen=True)
class Partition:
    """A partition: its GPT type as sgdisk abbreviates it, and its size in MiB."""

    type: str
    mib: int


class Firmware(enum.StrEnum):
    """What the machine runs first."""

    BIOS = "bios"  # SeaBIOS
    UEFI = "uefi"  # OVMF, whose variables are one more file that the guest writes to


class Loader(enum.StrEnum):
    """Who puts the kernel into memory."""

    QEMU = "qemu"  # always the same kernel, as its command line says; there is no boot loader
    GRUB = "grub"
    SYSTEMD_BOOT = "systemd-boot"

    @property
    def on_disk(self) -> bool:
        """Whether it is a boot loader, which the firmware finds on the root disk."""
        return self is not Loader.QEMU

    @property
    def first_partition(self) -> Partition | None:
        """What it needs in front of the root filesystem; None: there are no partitions."""
        match self:
            case Loader.QEMU:
                return None
            case Loader.GRUB:
                return Partition("ef02", 1)  # the BIOS boot partition, for core.img
            case Loader.SYSTEMD_BOOT:
                return Partition("ef00", 272)  # the EFI system partition; FAT32 begins at about 260 MiB

    @property
    def firmware(self) -> Firmware:
        """The firmware that starts it; each boot loader has another one, so that both are seen."""
        return Firmware.UEFI if self is Loader.SYSTEMD_BOOT else Firmware.BIOS

    @property
    def root_device(self) -> str:
        """The block device of the root filesystem."""
        return "/dev/vda2" if self.on_disk else "/dev/vda"

    @property
    def settings(self) -> dict[str, str]:
        """Files that lie in the root before the packages are configured, by path."""
        return {"/etc/default/grub.d/lab.cfg": GRUB_SETTINGS} if self is Loader.GRUB else {}

    @property
    def setup(self) -> str:
        """The script that installs it, run once by the guest's root; empty where there is nothing to install."""
        match self:
            case Loader.QEMU:
                return ""
            case Loader.GRUB:
                return GRUB_SETUP
            case Loader.SYSTEMD_BOOT:
                return SYSTEMD_BOOT_SETUP
