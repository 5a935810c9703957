# SPDX-License-Identifier: MIT
"""Gentoo's classic names: its order is kept, its way of joining kernel and initrd is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexecd.discover.gentoo import find, initrd_names, kernel_names
from kexecd.model import BootEntry, Found
from tests.unit.boot_tree import BootTree

RUNNING = "6.6.30-gentoo"


@pytest.fixture
def tree(tmp_path: Path) -> BootTree:
    return BootTree(tmp_path)


def look(tree: BootTree, boot_dir: str = "/boot", release: str = RUNNING, machine: str = "x86_64") -> Found:
    return find(tree.root, boot_dir, release=release, machine=machine)


def only(tree: BootTree) -> BootEntry:
    (entry,) = look(tree).entries
    return entry


def test_the_names_are_tried_in_the_scripts_order() -> None:
    assert kernel_names("6.6", "x86_64") == (
        *("bzImage", "vmlinux", "vmlinuz", "kernel", "bzImage-6.6", "vmlinux-6.6", "vmlinuz-6.6"),
        *("kernel-genkernel-x86_64-6.6", "kernel-genkernel-amd64-6.6", "kernel-6.6", "kernel-x86_64"),
    )
    assert initrd_names("6.6", "x86_64") == (
        *("initrd", "initramfs", "initrd.img-6.6", "initrd-6.6.img", "initrd-6.6", "initramfs-6.6.img"),
        *("initramfs-genkernel-x86_64-6.6", "initramfs-genkernel-amd64-6.6"),
    )


@pytest.mark.parametrize(
    ("machine", "genkernel"),
    [("x86_64", "amd64"), ("i386", "x86"), ("i486", "x86"), ("i586", "x86"), ("i686", "x86"), ("i786", "i786")],
)
def test_genkernel_has_names_of_its_own_for_some_architectures(machine: str, genkernel: str) -> None:
    assert f"kernel-genkernel-{machine}-6.6" in kernel_names("6.6", machine)
    assert f"kernel-genkernel-{genkernel}-6.6" in kernel_names("6.6", machine)


def test_a_name_that_genkernel_shares_is_tried_once() -> None:
    names = kernel_names("6.6", "aarch64")
    assert len(names) == len(set(names)) == 10


def test_a_name_without_a_version_wins_as_it_does_for_the_script(tree: BootTree) -> None:
    tree.kernel(f"/boot/kernel-{RUNNING}", RUNNING)
    tree.kernel("/boot/vmlinuz", "6.6.38-gentoo")
    found = look(tree)
    assert [entry.id for entry in found.entries] == ["vmlinuz", f"kernel-{RUNNING}"]
    assert found.next == "vmlinuz"
    assert found.reason == "/boot/vmlinuz is the first of the names that Gentoo's init script looks for"


def test_the_kernel_of_an_upgrade_is_not_among_them(tree: BootTree) -> None:
    tree.kernel("/boot/kernel-6.6.38-gentoo", "6.6.38-gentoo")
    found = look(tree)
    assert (found.entries, found.next) == ((), "")
    assert found.reason == "none of the names that Gentoo's init script looks for is in /boot"


def test_an_initrd_of_the_running_kernel_is_not_joined_with_a_newer_one(tree: BootTree) -> None:
    tree.kernel("/boot/bzImage", "6.6.38-gentoo")
    tree.initrd(f"/boot/initramfs-{RUNNING}.img")
    assert only(tree).initrds == ()
    assert only(tree).problems == (
        f"there is no initrd for 6.6.38-gentoo; Gentoo's init script would join it with"
        f" /boot/initramfs-{RUNNING}.img, that of {RUNNING}",
    )
    assert "and it would be joined with" in look(tree).reason


def test_the_initrd_of_its_own_version_is_taken_instead_and_that_is_said(tree: BootTree) -> None:
    tree.kernel("/boot/bzImage", "6.6.38-gentoo")
    tree.initrd(f"/boot/initramfs-{RUNNING}.img", "/boot/initramfs-6.6.38-gentoo.img")
    assert only(tree).initrds == ("/boot/initramfs-6.6.38-gentoo.img",)
    assert only(tree).problems == ()
    assert only(tree).remarks == (f"Gentoo's init script would join it with /boot/initramfs-{RUNNING}.img",)


def test_where_neither_name_has_a_version_they_belong_together_as_far_as_anybody_knows(tree: BootTree) -> None:
    tree.kernel("/boot/kernel", "6.6.38-gentoo")
    tree.initrd("/boot/initramfs")
    assert only(tree).initrds == ("/boot/initramfs",)
    assert only(tree).problems == ()
    assert only(tree).remarks == ("nothing but its name says that /boot/initramfs belongs to it",)


def test_an_initrd_without_a_version_is_not_joined_with_a_kernel_that_has_one(tree: BootTree) -> None:
    tree.kernel(f"/boot/kernel-{RUNNING}", RUNNING)
    tree.initrd("/boot/initramfs")
    assert only(tree).initrds == ()
    assert "whose name has no version" in only(tree).problems[0]


def test_links_are_followed_to_the_version_in_the_name_that_they_lead_to(tree: BootTree) -> None:
    tree.kernel("/boot/vmlinuz-6.6.38-gentoo", "6.6.38-gentoo")
    tree.link("/boot/vmlinuz", "vmlinuz-6.6.38-gentoo")
    tree.initrd("/boot/initramfs-6.6.30-gentoo.img", "/boot/initramfs-6.6.38-gentoo.img")
    tree.link("/boot/initramfs", "initramfs-6.6.30-gentoo.img")
    assert only(tree).version == "6.6.38-gentoo"
    assert only(tree).initrds == ("/boot/initramfs-6.6.38-gentoo.img",)
    assert only(tree).remarks == ("Gentoo's init script would join it with /boot/initramfs",)


def test_a_kernel_that_tells_no_version_gets_no_initrd_of_one(tree: BootTree) -> None:
    tree.write("/boot/vmlinux", "x")
    tree.initrd(f"/boot/initramfs-{RUNNING}.img")
    assert only(tree).version == ""
    assert only(tree).problems[0].startswith("nothing says which version it is; ")


@pytest.mark.parametrize("machine", ["i686", "mips64"])
def test_genkernels_initrd_is_known_whatever_the_machine(tree: BootTree, machine: str) -> None:
    tree.kernel(f"/boot/kernel-genkernel-{machine}-{RUNNING}", RUNNING)
    tree.initrd(f"/boot/initramfs-genkernel-{machine}-{RUNNING}")
    (entry,) = look(tree, machine=machine).entries
    assert entry.initrds == (f"/boot/initramfs-genkernel-{machine}-{RUNNING}",)


def test_without_any_initrd_none_is_missed(tree: BootTree) -> None:
    tree.kernel("/boot/bzImage", RUNNING)
    tree.modules(RUNNING)
    assert (only(tree).initrds, only(tree).problems, only(tree).remarks) == ((), (), ())


def test_what_the_script_would_take_and_cannot_be_taken_says_why(tree: BootTree) -> None:
    tree.write("/boot/kernel/README")
    tree.write("/boot/vmlinuz")
    tree.link("/boot/bzImage", "nowhere")
    os.mkfifo(tree.place("/boot/vmlinux"))
    found = look(tree)
    assert [(entry.id, *entry.problems) for entry in found.entries] == [
        ("vmlinux", "/boot/vmlinux is a FIFO"),
        ("vmlinuz", "/boot/vmlinuz is empty"),
        ("kernel", "/boot/kernel is a directory"),
    ]
    assert found.next == "vmlinux"


def test_a_link_to_a_backup_copy_is_a_backup_copy(tree: BootTree) -> None:
    tree.kernel("/boot/vmlinuz-6.6.30-gentoo.old", RUNNING)
    tree.link("/boot/vmlinuz", "vmlinuz-6.6.30-gentoo.old")
    assert only(tree).problems == ("it is a backup copy",)


@pytest.mark.parametrize("boot_dir", ["/efi/", "efi"])
def test_another_boot_directory_is_searched(tree: BootTree, boot_dir: str) -> None:
    tree.kernel("/efi/bzImage", RUNNING)
    assert look(tree, boot_dir).entries[0].kernel == "/efi/bzImage"


@given(release=st.text(max_size=20), machine=st.text(max_size=10), boot_dir=st.text(max_size=10))
def test_any_release_gives_a_source(release: str, machine: str, boot_dir: str) -> None:
    assert find("/nonexistent", boot_dir, release=release, machine=machine).entries == ()
