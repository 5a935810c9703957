# SPDX-License-Identifier: MIT
"""Which boot loader is taken to be in charge, where several have left their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from kexecd.cli.choosing import look
from kexecd.cli.main import main
from kexecd.model import Source
from tests.unit.boot_tree import BootTree

VERSION = "6.12.43"
LOADER_INFO = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


@pytest.fixture
def tree(tmp_path: Path) -> BootTree:
    """A kernel with an entry of the Boot Loader Specification for it; of systemd-boot itself nothing is there."""
    tree = BootTree(tmp_path)
    tree.kernel(f"/boot/vmlinuz-{VERSION}", VERSION)
    tree.write("/boot/loader/entries/one.conf", f"title One\nlinux /vmlinuz-{VERSION}\noptions root=/dev/vda1\n")
    return tree


def in_charge(tree: BootTree) -> Source | None:
    seen = look(tree.root)
    return seen.loader.source if seen.loader else None


def test_entries_alone_are_taken_for_those_of_systemd_boot_and_it_is_said_that_this_is_a_guess(tree: BootTree) -> None:
    choice = look(tree.root).choice
    assert choice.entry and choice.entry.id == "one.conf"
    assert choice.reason.endswith("; that it is systemd-boot is only guessed from its entries")


def test_systemd_boot_is_no_guess_where_its_program_is(tree: BootTree) -> None:
    tree.write("/boot/EFI/systemd/systemd-bootx64.efi", "x")
    assert "guessed" not in look(tree.root).choice.reason


def test_extlinux_is_in_charge_where_systemd_boot_is_only_guessed(tree: BootTree) -> None:
    tree.write("/boot/extlinux/extlinux.conf", f"label two\nlinux ../vmlinuz-{VERSION}\n")
    assert in_charge(tree) is Source.EXTLINUX
    tree.write("/boot/EFI/systemd/systemd-bootx64.efi", "x")
    assert in_charge(tree) is Source.BLS


def test_grub_is_in_charge_where_systemd_boot_is_only_guessed(tree: BootTree) -> None:
    tree.write("/boot/grub/grub.cfg", f"menuentry three {{ linux /boot/vmlinuz-{VERSION}\n}}\n")
    assert in_charge(tree) is Source.GRUB


def test_nobody_else_is_in_charge_where_systemd_boot_runs_and_its_partition_is_not_mounted(tmp_path: Path) -> None:
    tree = BootTree(tmp_path)
    tree.kernel(f"/boot/vmlinuz-{VERSION}", VERSION)
    tree.write("/boot/grub/grub.cfg", f"menuentry three {{ linux /boot/vmlinuz-{VERSION}\n}}\n")
    tree.place(LOADER_INFO).write_bytes(b"\6\0\0\0" + "systemd-boot 257\0".encode("utf-16-le"))
    seen = look(tree.root)
    assert seen.choice.entry is None
    assert "its entries are on no partition that is mounted" in seen.choice.reason


def test_two_entries_of_one_name_are_listed_with_the_reason_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = BootTree(tmp_path)
    tree.kernel("/boot/vmlinuz", VERSION)
    tree.initrd("/boot/initramfs-6.6.30.img")
    tree.link("/boot/initramfs.img", "initramfs-6.6.30.img")
    tree.modules(VERSION)
    main(["entries", "--root", tree.root])
    link, gentoo = (line for line in capsys.readouterr().out.splitlines() if line.startswith(("   link", "   gentoo")))
    assert "/boot/initramfs.img leads to /boot/initramfs-6.6.30.img" in link
    assert "though there are others" in gentoo


def test_an_id_names_one_entry_whatever_the_sources_call_theirs(tree: BootTree) -> None:
    """A name without a version is a link's to one source, and one of Gentoo's to another."""
    tree.kernel("/boot/vmlinuz", VERSION)
    ids = [entry.id for entry in look(tree.root).entries]
    assert len(ids) == len(set(ids)), ids
    assert {"vmlinuz", "gentoo:vmlinuz"} <= set(ids), ids
