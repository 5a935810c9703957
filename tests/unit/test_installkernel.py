# SPDX-License-Identifier: MIT
"""What Gentoo's installkernel wrote down last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexecd.discover.installkernel import PATH, Record, find, parse
from kexecd.model import BootEntry, Found
from tests.unit.boot_tree import BootTree

VERSION = "6.6.38-gentoo-dist"
DATE = "Tue Jul 16 18:02:55 UTC 2024"


@pytest.fixture
def tree(tmp_path: Path) -> BootTree:
    return BootTree(tmp_path)


def line(kernel: str, initrd: str, layout: str = "compat", boot: str = "/boot", version: str = VERSION) -> str:
    fields = (DATE, "systemd", version, "notset", layout, "dracut", "none", boot, kernel, initrd, "notset", "")
    return "\t".join(fields) + "\n"


def only(tree: BootTree, text: str) -> BootEntry:
    tree.write(PATH, text)
    found = find(tree.root)
    (entry,) = found.entries
    assert found.next == entry.id
    return entry


def nothing(tree: BootTree, text: str) -> Found:
    tree.write(PATH, text)
    found = find(tree.root)
    assert (found.entries, found.next) == ((), "")
    return found


@pytest.mark.parametrize("layout", ["compat", "grub"])
def test_kernel_and_initrd_are_taken_as_they_were_written_down(tree: BootTree, layout: str) -> None:
    tree.kernel(f"/boot/kernel-{VERSION}", VERSION)
    tree.initrd(f"/boot/initramfs-{VERSION}.img")
    entry = only(tree, line(f"kernel-{VERSION}", f"initramfs-{VERSION}.img", layout))
    assert (entry.id, entry.version) == (f"/boot/kernel-{VERSION}", VERSION)
    assert (entry.kernel, entry.initrds) == (f"/boot/kernel-{VERSION}", (f"/boot/initramfs-{VERSION}.img",))
    assert (entry.problems, entry.remarks, entry.cmdline) == ((), (), None)
    assert find(tree.root).reason == f"{PATH}:1: it was installed last, {DATE}"


def test_the_last_line_counts(tree: BootTree) -> None:
    tree.kernel("/boot/kernel-6.6.30", "6.6.30")
    text = line("kernel-6.6.38", "unknown", version="6.6.38") + line("kernel-6.6.30", "unknown", version="6.6.30")
    assert only(tree, text + "\n").version == "6.6.30"
    assert find(tree.root).reason.startswith(f"{PATH}:2: ")


def test_the_boot_loader_specifications_layout_has_a_directory_for_each_version(tree: BootTree) -> None:
    tree.kernel(f"/efi/gentoo/{VERSION}/linux", VERSION)
    tree.initrd(f"/efi/gentoo/{VERSION}/initrd")
    entry = only(tree, line(f"gentoo/{VERSION}/linux", f"gentoo/{VERSION}/initrd", "bls", "/efi"))
    assert (entry.kernel, entry.initrds) == (f"/efi/gentoo/{VERSION}/linux", (f"/efi/gentoo/{VERSION}/initrd",))
    assert entry.problems == ()


def test_an_efi_stub_kernel_has_its_initrd_beside_it(tree: BootTree) -> None:
    tree.kernel(f"/efi/EFI/Gentoo/kernel-{VERSION}.efi", VERSION)
    tree.initrd(f"/efi/EFI/Gentoo/initramfs-{VERSION}.img", "/efi/EFI/Gentoo/amd-uc.img")
    entry = only(
        tree, line(f"EFI/Gentoo/kernel-{VERSION}.efi", f"EFI/Gentoo/initramfs-{VERSION}.img", "efistub", "/efi")
    )
    assert entry.kernel == f"/efi/EFI/Gentoo/kernel-{VERSION}.efi"
    assert entry.initrds == ("/efi/EFI/Gentoo/amd-uc.img", f"/efi/EFI/Gentoo/initramfs-{VERSION}.img")


def test_a_unified_kernel_image_needs_no_initrd(tree: BootTree) -> None:
    tree.kernel(f"/efi/EFI/Linux/gentoo-{VERSION}.efi", VERSION)
    tree.initrd(f"/boot/initramfs-{VERSION}.img")
    entry = only(tree, line(f"EFI/Linux/gentoo-{VERSION}.efi", "unknown", "uki", "/efi"))
    assert (entry.kernel, entry.initrds, entry.problems) == (f"/efi/EFI/Linux/gentoo-{VERSION}.efi", (), ())
    assert entry.remarks == ("it is a unified kernel image, with its initrd and its command line inside",)


def test_a_path_that_is_not_below_the_boot_directory_is_written_whole(tree: BootTree) -> None:
    tree.kernel(f"/boot/kernel-{VERSION}", VERSION)
    assert only(tree, line(f"/boot/kernel-{VERSION}", "unknown", boot="/efi")).kernel == f"/boot/kernel-{VERSION}"


def test_an_initrd_that_was_not_known_then_is_looked_for(tree: BootTree) -> None:
    tree.kernel(f"/boot/kernel-{VERSION}", VERSION)
    tree.initrd("/boot/initramfs-6.6.30.img", f"/boot/initramfs-genkernel-x86_64-{VERSION}")
    entry = only(tree, line(f"kernel-{VERSION}", "unknown"))
    assert entry.initrds == (f"/boot/initramfs-genkernel-x86_64-{VERSION}",)
    assert entry.remarks[0].startswith("its initrd was not written down; ")


def test_an_initrd_that_is_nowhere_is_a_problem_where_others_have_theirs(tree: BootTree) -> None:
    tree.kernel(f"/boot/kernel-{VERSION}", VERSION)
    tree.modules(VERSION)
    assert only(tree, line(f"kernel-{VERSION}", "unknown")).problems == ()
    tree.initrd("/boot/initramfs-6.6.30.img")
    assert only(tree, line(f"kernel-{VERSION}", "unknown")).problems == (
        f"there is no initrd for {VERSION}, though there are others",
    )


def test_the_initrd_of_another_version_is_never_taken(tree: BootTree) -> None:
    tree.kernel(f"/boot/kernel-{VERSION}", VERSION)
    tree.initrd("/boot/initramfs-6.6.30.img")
    entry = only(tree, line(f"kernel-{VERSION}", "initramfs-6.6.30.img"))
    assert entry.initrds == ()
    assert entry.problems == (f"{PATH} names /boot/initramfs-6.6.30.img for the kernel {VERSION}",)


def test_what_was_removed_since_says_so(tree: BootTree) -> None:
    entry = only(tree, line("kernel-gone", "initramfs-gone"))
    assert entry.problems == ("there is no /boot/kernel-gone", "there is no /boot/initramfs-gone")


@pytest.mark.parametrize("path", ["/etc/kernel/cmdline", "/usr/lib/kernel/cmdline"])
def test_the_command_line_that_gentoos_own_reader_would_take_is_named(tree: BootTree, path: str) -> None:
    tree.kernel(f"/boot/kernel-{VERSION}", VERSION)
    tree.write(path, "root=/dev/sda1 ro\n")
    entry = only(tree, line(f"kernel-{VERSION}", "unknown"))
    assert entry.cmdline is None
    assert path in entry.remarks[0]


def test_a_layout_of_which_nothing_is_known_names_no_kernel(tree: BootTree) -> None:
    found = nothing(tree, line("unknown", "unknown", "other"))
    assert found.problems == (f"{PATH}:1: it does not say where the kernel {VERSION} is (layout other)",)


@pytest.mark.parametrize(
    "text",
    [
        "one two three\n",
        "x" + "\t" * 9 + "\n",
        DATE + "\tgentoo\t6.6\n",
        line("k", "i", version="notset"),
        "\0" + "\t" * 12,
    ],
)
def test_what_is_no_line_of_that_format_is_a_problem_with_its_place(tree: BootTree, text: str) -> None:
    assert nothing(tree, text).problems == (f"{PATH}:1: this is no line of 10 fields apart by tabs, with a version",)


def test_without_a_record_there_is_nothing_and_no_problem(tree: BootTree) -> None:
    assert find(tree.root).reason == f"there is no {PATH}"
    assert nothing(tree, "\n\n").reason == f"{PATH} has no line"
    assert find(tree.root).problems == ()


@pytest.mark.parametrize("kind", ["fifo", "directory", "large"])
def test_a_record_that_cannot_be_read_is_a_problem(tree: BootTree, kind: str) -> None:
    place = tree.place(PATH)
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    else:
        place.write_bytes(b"x" * (2 << 20))
    assert find(tree.root).problems[0].startswith(f"{PATH}: ")


def test_a_line_has_its_parts() -> None:
    assert parse(line("k", "unknown", "grub", "/efi/")) == Record(DATE, VERSION, "grub", "/efi", "/efi/k", "")
    assert parse(line("k", "i", boot="notset")) == Record(DATE, VERSION, "compat", "/boot", "/boot/k", "/boot/i")


FIELD = st.one_of(st.sampled_from(["", "notset", "unknown", "/", "/boot", "../..", "uki", "bls"]), st.text(max_size=8))


@given(st.one_of(st.text(), st.lists(FIELD, min_size=8, max_size=13).map("\t".join)))
def test_any_line_is_a_record_or_none(text: str) -> None:
    record = parse(text)
    if record is not None:
        assert record.version
        assert record.boot_dir.startswith("/")
        assert all(not path or path.startswith("/") for path in (record.kernel, record.initrd))
