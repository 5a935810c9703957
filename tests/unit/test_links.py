# SPDX-License-Identifier: MIT
"""Names that stay the same from one kernel to the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from kexecd.discover.links import find
from kexecd.model import BootEntry
from tests.unit.boot_tree import BootTree

OLD, NEW = "6.1.0-50-amd64", "6.1.0-56-amd64"


@pytest.fixture
def tree(tmp_path: Path) -> BootTree:
    return BootTree(tmp_path)


@pytest.fixture
def debian(tree: BootTree) -> BootTree:
    for version in (OLD, NEW):
        tree.kernel(f"/boot/vmlinuz-{version}", version)
        tree.initrd(f"/boot/initrd.img-{version}")
    return tree


def only(tree: BootTree) -> BootEntry:
    (entry,) = find(tree.root).entries
    return entry


def test_without_such_names_there_is_nothing(tree: BootTree) -> None:
    found = find(tree.root)
    assert (found.entries, found.next, found.reason) == ((), "", "there are no such names")


def test_a_link_is_the_kernel_that_it_leads_to(debian: BootTree) -> None:
    debian.link("/vmlinuz", f"boot/vmlinuz-{OLD}")
    debian.link("/initrd.img", f"boot/initrd.img-{OLD}")
    entry = only(debian)
    assert (entry.id, entry.version, entry.kernel) == ("/vmlinuz", OLD, f"/boot/vmlinuz-{OLD}")
    assert (entry.initrds, entry.problems, entry.remarks) == ((f"/boot/initrd.img-{OLD}",), (), ())
    assert find(debian.root).next == "/vmlinuz"


def test_the_kernel_before_is_a_kernel_like_any_other_and_never_the_next(debian: BootTree) -> None:
    debian.link("/vmlinuz.old", f"boot/vmlinuz-{OLD}")
    assert only(debian).problems == ()
    assert find(debian.root).next == ""


def test_a_copy_that_was_set_aside_says_so(tree: BootTree) -> None:
    tree.kernel("/boot/vmlinuz", NEW)
    tree.kernel("/boot/vmlinuz.old", OLD)
    found = find(tree.root)
    assert [(entry.id, entry.version, entry.problems) for entry in found.entries] == [
        ("vmlinuz", NEW, ()),
        ("vmlinuz.old", OLD, ("it is a backup copy",)),
    ]
    assert found.next == "vmlinuz"


def test_links_that_lead_to_two_versions_are_not_believed(debian: BootTree) -> None:
    debian.link("/vmlinuz", f"boot/vmlinuz-{NEW}")
    debian.link("/initrd.img", f"boot/initrd.img-{OLD}")
    assert only(debian).initrds == (f"/boot/initrd.img-{NEW}",)
    assert only(debian).remarks == (f"/initrd.img leads to /boot/initrd.img-{OLD}",)


def test_a_link_to_the_initrd_of_another_version_is_a_problem_where_its_own_is_missing(debian: BootTree) -> None:
    debian.link("/vmlinuz", f"boot/vmlinuz-{NEW}")
    debian.link("/initrd.img", f"boot/initrd.img-{OLD}")
    debian.place(f"/boot/initrd.img-{NEW}").unlink()
    assert only(debian).initrds == ()
    assert only(debian).problems == (
        f"there is no initrd for {NEW}; /initrd.img leads to /boot/initrd.img-{OLD}, that of {OLD}",
    )


def test_a_link_that_leads_nowhere_says_so(debian: BootTree) -> None:
    debian.link("/vmlinuz", "boot/vmlinuz-6.0")
    assert only(debian).problems == ("there is no /boot/vmlinuz-6.0",)


def test_links_that_lead_in_a_circle_are_a_problem(tree: BootTree) -> None:
    tree.link("/boot/vmlinuz", "vmlinuz.old")
    tree.link("/boot/vmlinuz.old", "vmlinuz")
    assert all(entry.problems for entry in find(tree.root).entries)


def test_files_without_a_version_belong_together(tree: BootTree) -> None:
    tree.kernel("/boot/vmlinuz", NEW)
    tree.initrd("/boot/initrd.img")
    assert (only(tree).version, only(tree).initrds, only(tree).problems) == (NEW, ("/boot/initrd.img",), ())
    assert only(tree).remarks == ("nothing but its name says that /boot/initrd.img belongs to it",)


def test_a_flavour_has_its_initrd_with_microcode_in_front(tree: BootTree) -> None:
    tree.kernel("/boot/vmlinuz-linux", "6.12.9-arch1-1")
    tree.initrd("/boot/initramfs-linux.img", "/boot/initramfs-linux-fallback.img", "/boot/amd-ucode.img")
    assert only(tree).version == "6.12.9-arch1-1"
    assert only(tree).initrds == ("/boot/amd-ucode.img", "/boot/initramfs-linux.img")
    assert only(tree).remarks == ("/boot/initramfs-linux-fallback.img is there too, and is not used",)


def test_microcode_that_cannot_be_read_is_left_out(tree: BootTree) -> None:
    tree.kernel("/boot/vmlinuz-lts", "6.12.9-0-lts")
    tree.initrd("/boot/initramfs-lts")
    tree.write("/boot/intel-ucode.img")
    assert only(tree).initrds == ("/boot/initramfs-lts",)


def test_the_fallback_initrd_is_never_taken_for_the_ordinary_one(tree: BootTree) -> None:
    tree.kernel("/boot/vmlinuz-linux", "6.12.9-arch1-1")
    tree.initrd("/boot/initramfs-linux-fallback.img")
    tree.modules("6.12.9-arch1-1")
    assert only(tree).initrds == ()
    assert only(tree).problems == ("there is no initrd for 6.12.9-arch1-1, though there are others",)


def test_which_flavour_is_next_cannot_be_told(tree: BootTree) -> None:
    for name, version in (("lts", "6.6.72-1-lts"), ("zen", "6.12.9-zen1-1")):
        tree.kernel(f"/boot/vmlinuz-{name}", version)
    found = find(tree.root)
    assert [entry.id for entry in found.entries] == ["vmlinuz-zen", "vmlinuz-lts"]
    assert (found.next, found.reason) == ("", "names without a version do not say which is next")


@pytest.mark.parametrize("name", ["vmlinuz-6.1", "vmlinuz-0-rescue-0f1e", "vmlinuz-lts.sig", "vmlinuz-a b", "vmlinuz-"])
def test_what_is_no_flavour_is_passed_over(tree: BootTree, name: str) -> None:
    tree.kernel(f"/boot/{name}", "6.1")
    assert find(tree.root).entries == ()


def test_suse_calls_the_link_to_the_initrd_otherwise(tree: BootTree) -> None:
    version = "6.4.0-150600.21-default"
    tree.kernel(f"/usr/lib/modules/{version}/vmlinuz", version)
    tree.link(f"/boot/vmlinuz-{version}", f"../usr/lib/modules/{version}/vmlinuz")
    tree.link("/boot/vmlinuz", f"vmlinuz-{version}")
    tree.initrd(f"/boot/initrd-{version}")
    tree.link("/boot/initrd", f"initrd-{version}")
    assert only(tree).kernel == f"/usr/lib/modules/{version}/vmlinuz"
    assert (only(tree).initrds, only(tree).problems) == ((f"/boot/initrd-{version}",), ())
