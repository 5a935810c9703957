# SPDX-License-Identifier: MIT
"""Kernels beside their modules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kexecd.discover.modules import find
from kexecd.model import BootEntry
from tests.unit.boot_tree import BootTree

VERSION = "6.12.9-200.fc41.x86_64"
KERNEL = f"/usr/lib/modules/{VERSION}/vmlinuz"


@pytest.fixture
def tree(tmp_path: Path) -> BootTree:
    return BootTree(tmp_path)


def only(tree: BootTree) -> BootEntry:
    (entry,) = find(tree.root).entries
    return entry


def test_a_kernel_is_of_the_version_of_its_directory(tree: BootTree) -> None:
    tree.kernel(KERNEL, VERSION)
    tree.initrd(f"/boot/initramfs-{VERSION}.img")
    entry = only(tree)
    assert (entry.id, entry.version, entry.kernel) == (KERNEL, VERSION, KERNEL)
    assert (entry.initrds, entry.problems) == ((f"/boot/initramfs-{VERSION}.img",), ())
    assert find(tree.root).next == ""


@pytest.mark.parametrize("name", ["initramfs.img", "initrd", "initrd.img"])
def test_the_initrd_beside_it_comes_first(tree: BootTree, name: str) -> None:
    tree.kernel(KERNEL, VERSION)
    tree.initrd(f"/boot/initramfs-{VERSION}.img", f"/usr/lib/modules/{VERSION}/{name}")
    assert only(tree).initrds == (f"/usr/lib/modules/{VERSION}/{name}",)


def test_without_the_initrd_of_its_version_it_says_so(tree: BootTree) -> None:
    tree.kernel(KERNEL, VERSION)
    tree.initrd("/boot/initramfs-6.12.8.img", "/boot/initrd.img")
    assert only(tree).initrds == ()
    assert only(tree).problems == (f"there is no initrd for {VERSION} in /boot or beside the kernel",)


def test_a_merged_usr_is_counted_once(tree: BootTree) -> None:
    tree.kernel(KERNEL, VERSION)
    tree.link("/lib", "usr/lib")
    assert only(tree).kernel == KERNEL


def test_a_separate_lib_is_searched_too(tree: BootTree) -> None:
    tree.kernel("/lib/modules/6.1/vmlinuz", "6.1")
    tree.kernel("/usr/lib/modules/6.12/vmlinuz", "6.12")
    assert [entry.kernel for entry in find(tree.root).entries] == [
        "/usr/lib/modules/6.12/vmlinuz",
        "/lib/modules/6.1/vmlinuz",
    ]


def test_the_newest_comes_first(tree: BootTree) -> None:
    for version in ("6.1.9", "6.1.56", "6.12.0-rc1", "6.12.0"):
        tree.kernel(f"/usr/lib/modules/{version}/vmlinuz", version)
    assert [entry.version for entry in find(tree.root).entries] == ["6.12.0", "6.12.0-rc1", "6.1.56", "6.1.9"]


@pytest.mark.parametrize("name", ["Image", "image", "vmlinux", "bzImage"])
def test_other_architectures_have_other_names(tree: BootTree, name: str) -> None:
    tree.kernel(f"/usr/lib/modules/6.1/{name}", "6.1")
    assert only(tree).kernel == f"/usr/lib/modules/6.1/{name}"


def test_archs_initrd_is_called_after_the_package(tree: BootTree) -> None:
    tree.kernel("/usr/lib/modules/6.12.9-arch1-1/vmlinuz", "6.12.9-arch1-1")
    tree.write("/usr/lib/modules/6.12.9-arch1-1/pkgbase", "linux\n")
    tree.kernel("/boot/vmlinuz-linux", "6.12.9-arch1-1")
    tree.initrd("/boot/initramfs-linux.img", "/boot/intel-ucode.img")
    assert only(tree).initrds == ("/boot/intel-ucode.img", "/boot/initramfs-linux.img")


def test_the_packages_initrd_is_not_that_of_modules_which_an_upgrade_left_behind(tree: BootTree) -> None:
    for version in ("6.12.9-arch1-1", "6.12.8-arch1-1"):
        tree.kernel(f"/usr/lib/modules/{version}/vmlinuz", version)
        tree.write(f"/usr/lib/modules/{version}/pkgbase", "linux\n")
    tree.kernel("/boot/vmlinuz-linux", "6.12.9-arch1-1")
    tree.initrd("/boot/initramfs-linux.img")
    assert [(entry.version, entry.initrds) for entry in find(tree.root).entries] == [
        ("6.12.9-arch1-1", ("/boot/initramfs-linux.img",)),
        ("6.12.8-arch1-1", ()),
    ]


@pytest.mark.parametrize("package", ["", "../linux", "a\0b", "x" * 300, "ü", "li nux"])
def test_a_package_file_that_makes_no_sense_names_no_initrd(tree: BootTree, package: str) -> None:
    tree.kernel(KERNEL, VERSION)
    tree.write(f"/usr/lib/modules/{VERSION}/pkgbase", package)
    tree.initrd("/boot/initramfs-linux.img")
    assert only(tree).initrds == ()


def test_what_is_no_kernel_says_why_or_is_passed_over(tree: BootTree) -> None:
    tree.write("/usr/lib/modules/6.1/vmlinuz")
    tree.link("/usr/lib/modules/6.2/vmlinuz", "../../../src/gone")
    os.mkfifo(tree.place("/usr/lib/modules/6.3/vmlinuz"))
    tree.write("/usr/lib/modules/6.4/modules.dep")
    tree.write("/usr/lib/modules/extra/vmlinuz", "x")
    tree.write("/usr/lib/modules/6.5 copy/vmlinuz", "x")
    tree.write("/usr/lib/modules/README", "x")
    assert [(entry.version, entry.problems[0]) for entry in find(tree.root).entries] == [
        ("6.3", "/usr/lib/modules/6.3/vmlinuz is a FIFO"),
        ("6.2", "there is no /usr/lib/modules/6.2/vmlinuz"),
        ("6.1", "/usr/lib/modules/6.1/vmlinuz is empty"),
    ]


def test_modules_that_cannot_be_listed_are_a_problem_of_the_source(tree: BootTree) -> None:
    tree.link("/usr/lib/modules", "modules")
    assert find(tree.root).problems == ("/usr/lib/modules cannot be read: too many levels of symbolic links",)
