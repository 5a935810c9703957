# SPDX-License-Identifier: MIT
from __future__ import annotations

import os

from kexecd.config.checks import CheckId
from kexecd.config.settings import Settings
from kexecd.errors import BadConfig, BadImage, NoEntry
from kexecd.kernel.files import open_regular
from kexecd.model import BootEntry, BootTarget, Choice, Found, Source
from kexecd.preflight.facts import Facts, Subject
from kexecd.preflight.finding import Severity
from tests.unit import initrds
from tests.unit.images import bzimage
from tests.unit.preflight.cases import fires, silent
from tests.unit.preflight.machine import CMDLINE, INITRD, MODULES, NOW, UUID, VERSION, Machine

WITHOUT_DRIVER = tuple(name for name in INITRD if "virtio_blk" not in name)


@fires(CheckId.BOOT_ENTRY, Severity.REFUSE, "no kernel was found")
def nothing_to_boot(machine: Machine) -> Facts:
    return machine.facts(Subject(refusal=NoEntry("nothing is chosen to boot", "no kernel was found")))


@fires(CheckId.IMAGE_FILES, Severity.REFUSE, "the file is truncated")
def a_kernel_that_was_cut_short(machine: Machine) -> Facts:
    return machine.facts(Subject(refusal=BadImage("cannot boot /boot/vmlinuz", "the file is truncated")))


@fires(CheckId.COMMAND_LINE, Severity.REFUSE, "4000 bytes")
def a_command_line_that_is_too_long(machine: Machine) -> Facts:
    return machine.facts(Subject(refusal=BadConfig("cannot use this kernel command line", "it has 4000 bytes")))


@silent(CheckId.BOOT_ENTRY, CheckId.IMAGE_FILES, CheckId.COMMAND_LINE)
def a_target_that_could_be_made(machine: Machine) -> Facts:
    return machine.facts()


def large(machine: Machine, kernel: int, initrd: int) -> BootTarget:
    """Files of these sizes, with hardly any content."""
    files = []
    for name, head, size in (("kernel", bzimage(), kernel), ("initrd", initrds.newc(*INITRD), initrd)):
        path = machine.write(f"/boot/{name}", head)
        os.truncate(path, size)
        files.append(open_regular(str(path), "a test's boot target"))
        machine.opened.callback(os.close, files[-1].fd)
    return BootTarget(machine.target().entry, files[0], tuple(files[1:]), CMDLINE, "")


@fires(CheckId.MEMORY, Severity.REFUSE, "loading takes 2240 MiB of memory for a while, and 2000 MiB are available")
def an_image_twice_as_large_as_what_is_available(machine: Machine) -> Facts:
    return machine.facts(Subject(target=large(machine, 20 << 20, 1100 << 20)))


@silent(CheckId.MEMORY)
def an_image_that_fits_twice(machine: Machine) -> Facts:
    return machine.facts(Subject(target=large(machine, 20 << 20, 900 << 20)))


@fires(CheckId.MODULES, Severity.WARN, "no modules for 6.12.0")
def a_kernel_whose_modules_have_been_removed(machine: Machine) -> Facts:
    return machine.facts(Subject(image=machine.image(version="6.12.0")))


@silent(CheckId.MODULES)
def a_machine_on_which_no_kernel_has_modules(machine: Machine) -> Facts:
    machine.remove(f"/lib/modules/{VERSION}/modules.builtin")
    (machine.path / f"lib/modules/{VERSION}").rmdir()
    return machine.facts()


@fires(CheckId.ROOT_DEVICE, Severity.REFUSE, "root=UUID=0000-1111")
def a_root_that_no_device_has(machine: Machine) -> Facts:
    return machine.facts(Subject(target=machine.target(cmdline="root=UUID=0000-1111")))


@fires(CheckId.ROOT_DEVICE, Severity.REFUSE, "root=/dev/sdx9")
def a_root_by_a_name_that_is_not_there(machine: Machine) -> Facts:
    return machine.facts(Subject(target=machine.target(cmdline="root=/dev/sdx9")))


@fires(CheckId.ROOT_DEVICE, Severity.REFUSE, "has no root=")
def no_root_and_no_initrd(machine: Machine) -> Facts:
    return machine.facts(Subject(target=machine.target(cmdline="quiet", initrds=())))


@fires(CheckId.ROOT_DEVICE, Severity.REFUSE, "root=/dev/mapper/vg-gone")
def a_volume_that_is_not_there(machine: Machine) -> Facts:
    return machine.facts(Subject(image=machine.image(cmdline="root=/dev/mapper/vg-gone")))


@silent(CheckId.ROOT_DEVICE)
def a_root_by_its_label_with_a_blank(machine: Machine) -> Facts:
    machine.link("/dev/disk/by-label/my\\x20root", "../../vda1")
    return machine.facts(Subject(target=machine.target(cmdline='root="LABEL=my root"')))


@silent(CheckId.ROOT_DEVICE)
def a_root_that_is_called_slash(machine: Machine) -> Facts:
    machine.link("/dev/disk/by-label/\\x2f", "../../vda1")
    return machine.facts(Subject(target=machine.target(cmdline="root=LABEL=/")))


@silent(CheckId.ROOT_DEVICE)
def a_partition_counted_from_another(machine: Machine) -> Facts:
    machine.link("/dev/disk/by-partuuid/0123-abcd", "../../vda1")
    return machine.facts(Subject(target=machine.target(cmdline="root=PARTUUID=0123-ABCD/PARTNROFF=1")))


@silent(CheckId.ROOT_DEVICE)
def a_volume_that_is_there(machine: Machine) -> Facts:
    machine.write("/sys/block/dm-0/dm/name", "vg-root\n")
    return machine.facts(Subject(target=machine.target(cmdline="root=/dev/mapper/vg-root")))


@silent(CheckId.ROOT_DEVICE)
def a_root_that_only_an_initrd_understands(machine: Machine) -> Facts:
    return machine.facts(Subject(target=machine.target(cmdline="root=ZFS=tank/root")))


@silent(CheckId.ROOT_DEVICE)
def a_machine_without_udev(machine: Machine) -> Facts:
    machine.remove(f"/dev/disk/by-uuid/{UUID}")
    return machine.facts()


@fires(CheckId.ROOT_DRIVER, Severity.REFUSE, f"the root takes virtio_blk: neither part of Linux {VERSION}")
def an_initrd_without_the_disks_driver(machine: Machine) -> Facts:
    return machine.facts(Subject(target=machine.target(initrds=(initrds.newc(*WITHOUT_DRIVER),))))


@fires(CheckId.ROOT_DRIVER, Severity.REFUSE, "virtio_blk")
def a_compressed_initrd_without_the_disks_driver(machine: Machine) -> Facts:
    packed = initrds.early(), initrds.xz(initrds.newc(*WITHOUT_DRIVER))
    return machine.facts(Subject(target=machine.target(initrds=packed)))


@fires(CheckId.ROOT_DRIVER, Severity.REFUSE, "ext4, virtio_blk, virtio_pci")
def no_initrd_and_drivers_that_are_modules(machine: Machine) -> Facts:
    return machine.facts(Subject(target=machine.target(initrds=())))


@fires(CheckId.ROOT_DRIVER, Severity.REFUSE, "dm_crypt")
def an_initrd_that_cannot_open_luks(machine: Machine) -> Facts:
    luks(machine)
    return machine.facts(Subject(target=machine.target(cmdline="root=/dev/mapper/root")))


def luks(machine: Machine) -> None:
    machine.write("/sys/block/dm-0/dm/name", "root\n")
    machine.write("/sys/block/dm-0/dm/uuid", "CRYPT-LUKS2-0123-root\n")
    machine.write("/sys/block/dm-0/dev", "253:0\n")
    machine.write("/sys/block/dm-0/slaves/vda1")
    machine.link("/sys/class/block/dm-0", "/sys/block/dm-0")
    loaded = "dm_crypt 1 1 - Live 0x0\ndm_mod 1 1 - Live 0x0\nvirtio_blk 1 1 - Live 0x0\nvirtio_pci 1 1 - Live 0x0\n"
    machine.write("/proc/modules", loaded)


@silent(CheckId.ROOT_DRIVER)
def an_initrd_that_can_open_luks(machine: Machine) -> Facts:
    luks(machine)
    more = (f"{MODULES}/drivers/md/dm-crypt.ko.zst", f"{MODULES}/drivers/md/dm-mod.ko.zst")
    packed = initrds.gzip(initrds.newc(*INITRD, *more))
    return machine.facts(Subject(target=machine.target(initrds=(packed,), cmdline="root=/dev/mapper/root")))


@silent(CheckId.ROOT_DRIVER)
def a_driver_that_is_built_into_the_running_kernel(machine: Machine) -> Facts:
    """Nobody knows under which name the new one has it."""
    machine.write("/proc/modules", "ext4 1 1 - Live 0x0\nvirtio_pci 1 1 - Live 0x0\n")
    return machine.facts(Subject(target=machine.target(initrds=(initrds.newc(*WITHOUT_DRIVER),))))


@silent(CheckId.ROOT_DRIVER)
def no_initrd_and_drivers_that_are_built_in(machine: Machine) -> Facts:
    names = "kernel/fs/ext4/ext4.ko\nkernel/drivers/block/virtio_blk.ko\nkernel/drivers/virtio/virtio_pci.ko\n"
    machine.write(f"/lib/modules/{VERSION}/modules.builtin", names)
    return machine.facts(Subject(target=machine.target(initrds=())))


@silent(CheckId.ROOT_DRIVER)
def an_initrd_with_a_filesystem_image_inside(machine: Machine) -> Facts:
    return machine.facts(Subject(target=machine.target(initrds=(initrds.newc("squashfs-root.img"),))))


@fires(CheckId.STALE_IMAGE, Severity.WARN, "/boot/vmlinuz, which has changed since")
def a_kernel_that_was_replaced_after_the_load(machine: Machine) -> Facts:
    image = machine.image()
    os.utime(machine.path / "boot/vmlinuz", (NOW + 5, NOW + 5))
    return machine.facts(Subject(image=image))


@fires(CheckId.STALE_IMAGE, Severity.WARN, "/boot/vmlinuz, which is gone")
def a_kernel_that_was_removed_after_the_load(machine: Machine) -> Facts:
    image = machine.image()
    machine.remove("/boot/vmlinuz")
    return machine.facts(Subject(image=image))


@silent(CheckId.STALE_IMAGE)
def a_kernel_as_it_was_loaded(machine: Machine) -> Facts:
    return machine.facts(Subject(image=machine.image()))


@silent(CheckId.STALE_IMAGE)
def a_kernel_on_a_boot_partition_that_is_not_mounted(machine: Machine) -> Facts:
    image = machine.image()
    machine.remove("/boot/vmlinuz")
    machine.write("/etc/fstab", "/dev/vda2 /boot ext2 noauto 0 2\n")
    return machine.facts(Subject(image=image))


@silent(CheckId.STALE_IMAGE)
def a_kernel_on_a_server(machine: Machine) -> Facts:
    image = machine.image()
    machine.remove("/boot/vmlinuz")
    machine.write("/proc/self/mountinfo", "30 22 0:40 / /boot rw - nfs4 server:/boot rw,addr=192.0.2.1\n")
    return machine.facts(Subject(image=image))


@fires(CheckId.FOREIGN_IMAGE, Severity.WARN, "kexecd has not loaded")
def an_image_of_somebody_elses(machine: Machine) -> Facts:
    machine.write("/sys/kernel/kexec_loaded", "1\n")
    return machine.facts()


@silent(CheckId.FOREIGN_IMAGE)
def an_image_of_ours_that_will_be_replaced(machine: Machine) -> Facts:
    machine.write("/sys/kernel/kexec_loaded", "1\n")
    return machine.facts(Subject(target=machine.target(), ours_loaded=True))


def entry(name: str) -> BootEntry:
    return BootEntry(id=name, title=f"Linux {name}", version=name, source=Source.BLS, kernel=f"/boot/vmlinuz-{name}")


@fires(CheckId.BOOT_LOADER, Severity.NOTE, "the boot loader would boot Linux 6.1")
def another_kernel_than_the_boot_loaders(machine: Machine) -> Facts:
    loader = Found(Source.BLS, (entry("6.1"), entry("6.12")), next="6.1")
    return machine.facts(Subject(choice=Choice(entry("6.12"), "it is the newest"), loader=loader))


@silent(CheckId.BOOT_LOADER)
def another_kernel_that_somebody_named(machine: Machine) -> Facts:
    loader = Found(Source.BLS, (entry("6.1"), entry("6.12")), next="6.1")
    return machine.facts(Subject(choice=Choice(entry("6.12"), "it is named"), loader=loader, named=True))


@silent(CheckId.BOOT_LOADER)
def the_boot_loaders_kernel(machine: Machine) -> Facts:
    loader = Found(Source.BLS, (entry("6.1"), entry("6.12")), next="6.12")
    return machine.facts(Subject(choice=Choice(entry("6.12"), "systemd-boot would boot it"), loader=loader))


@fires(CheckId.BOOT_COUNTING, Severity.NOTE, "(3 left)")
def an_entry_with_tries_left(machine: Machine) -> Facts:
    machine.write("/efi/loader/entries/gentoo-6.12+3-0.conf", "title Gentoo\n")
    return machine.facts(Subject(choice=Choice(entry("gentoo-6.12.conf"), "it is the newest")))


@silent(CheckId.BOOT_COUNTING)
def an_entry_that_is_blessed(machine: Machine) -> Facts:
    machine.write("/efi/loader/entries/gentoo-6.12+3-0.conf", "title Gentoo\n")
    machine.write("/efi/loader/entries/debian-6.12+deb12.conf", "title Debian\n")
    return machine.facts(Subject(choice=Choice(entry("debian-6.12+deb12.conf"), "it is the newest")))


@fires(CheckId.REMARKS, Severity.NOTE, "holds no modules")
def a_remark(machine: Machine) -> Facts:
    return machine.facts(Subject(target=machine.target(remarks=("its initrd holds no modules",))))


@fires(CheckId.SETTINGS, Severity.WARN, "write no")
def a_setting_that_means_the_contrary(machine: Machine) -> Facts:
    return machine.facts(Subject(settings=Settings(warnings=("/etc/conf.d/kexec:3: write no",))))


@fires(CheckId.BOOT_SOURCES, Severity.NOTE, "grub.cfg:3")
def a_line_of_grub_that_was_not_understood(machine: Machine) -> Facts:
    return machine.facts(Subject(problems=("/boot/grub/grub.cfg:3:1: it is not understood",)))


@silent(CheckId.REMARKS, CheckId.SETTINGS, CheckId.BOOT_SOURCES)
def everything_was_understood(machine: Machine) -> Facts:
    return machine.facts()
