# SPDX-License-Identifier: MIT
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexecd.discover.lookup import problem
from kexecd.discover.pairs import entries, parse_name
from kexecd.errors import NoEntry
from kexecd.kernel.files import resolve
from kexecd.model import BootEntry, Source
from tests.unit.images import bzimage

Tree = Callable[..., str]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes files of one byte, and a directory for a name that ends in a slash; returns the root."""

    def make(*paths: str) -> str:
        for path in paths:
            place = tmp_path / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                place.mkdir(exist_ok=True)
            else:
                place.write_text("x")
        return str(tmp_path)

    return make


def pairs(root: str, boot_dir: str = "/boot") -> list[tuple[str, ...]]:
    return [(entry.id, *(os.path.basename(path) for path in entry.initrds)) for entry in entries(root, boot_dir)]


def test_a_debian_kernel_has_its_initrd(tree: Tree) -> None:
    root = tree("/boot/vmlinuz-6.1.0-50-amd64", "/boot/initrd.img-6.1.0-50-amd64", "/boot/config-6.1.0-50-amd64")
    assert entries(root) == (
        BootEntry(
            id="vmlinuz-6.1.0-50-amd64",
            title="Linux 6.1.0-50-amd64",
            version="6.1.0-50-amd64",
            source=Source.VERSIONED,
            kernel="/boot/vmlinuz-6.1.0-50-amd64",
            initrds=("/boot/initrd.img-6.1.0-50-amd64",),
        ),
    )


@pytest.mark.parametrize(
    ("kernel", "initrd", "version"),
    [
        ("vmlinuz-6.1.0-50-amd64", "initrd.img-6.1.0-50-amd64", "6.1.0-50-amd64"),
        ("vmlinuz-6.12.5-200.fc41.x86_64", "initramfs-6.12.5-200.fc41.x86_64.img", "6.12.5-200.fc41.x86_64"),
        ("vmlinuz-6.4.0-150600.21-default", "initrd-6.4.0-150600.21-default", "6.4.0-150600.21-default"),
        ("kernel-6.6.30-gentoo-dist", "initramfs-6.6.30-gentoo-dist.img", "6.6.30-gentoo-dist"),
        ("kernel-genkernel-x86_64-6.6.30-gentoo", "initramfs-genkernel-x86_64-6.6.30-gentoo", "6.6.30-gentoo"),
        ("kernel-genkernel-amd64-6.6.30-gentoo", "initramfs-genkernel-amd64-6.6.30-gentoo.img", "6.6.30-gentoo"),
        ("kernel-6.6.30-gentoo", "initramfs-genkernel-x86_64-6.6.30-gentoo", "6.6.30-gentoo"),
        ("bzImage-6.6.30", "initrd-6.6.30.img", "6.6.30"),
        ("Image-6.6.30", "initramfs-6.6.30", "6.6.30"),
        ("vmlinuz-6.6.30.efi", "initramfs-6.6.30.img", "6.6.30"),
        ("vmlinuz-6.6.30.efi.signed", "initrd.img-6.6.30", "6.6.30"),
    ],
)
def test_names_of_distributions_are_known(tree: Tree, kernel: str, initrd: str, version: str) -> None:
    root = tree(f"/boot/{kernel}", f"/boot/{initrd}")
    assert pairs(root) == [(kernel, initrd)]
    assert entries(root)[0].version == version


def test_the_newest_comes_first(tree: Tree) -> None:
    root = tree(*(f"/boot/vmlinuz-{v}" for v in ("6.12.9", "6.12.100", "6.1.0-56", "6.1.0-9", "6.12.100-rc3")))
    assert [entry.version for entry in entries(root)] == ["6.12.100", "6.12.100-rc3", "6.12.9", "6.1.0-56", "6.1.0-9"]


def test_an_initrd_is_only_matched_by_equal_version(tree: Tree) -> None:
    root = tree("/boot/vmlinuz-6.1", "/boot/initrd.img-6.1.1", "/boot/initramfs-6.1kdump.img", "/boot/initrd.img")
    assert pairs(root) == [("vmlinuz-6.1",)]


def test_a_vmlinuz_is_preferred_to_a_vmlinux_of_its_version(tree: Tree) -> None:
    root = tree("/boot/vmlinux-6.1", "/boot/vmlinuz-6.1", "/boot/vmlinuz-6.1.efi.signed", "/boot/kernel-6.2")
    assert [name for name, *_ in pairs(root)] == ["kernel-6.2", "vmlinuz-6.1", "vmlinux-6.1", "vmlinuz-6.1.efi.signed"]


@pytest.mark.parametrize(
    "name",
    [
        "vmlinuz-6.1.dpkg-tmp",
        "vmlinuz-6.1.dpkg-new",
        "vmlinuz-6.1.rpmsave",
        "vmlinuz-6.1.sig",
        "vmlinux-6.1.gz",
        ".vmlinuz-6.1.hmac",
        "vmlinuz-",
        "vmlinuz",
        "bzImage",
        "kernel-config-6.1",
        "vmlinuz-6.1 copy",
        "vmlinuz-6.1\n",
        "vmlinuz-6.1ü",
        "config-6.1",
        "System.map-6.1",
        "initrd.img-6.1",
    ],
)
def test_what_is_no_kernel_with_a_version_is_passed_over(tree: Tree, name: str) -> None:
    assert entries(tree(f"/boot/{name}")) == ()


def test_backups_and_rescue_kernels_come_last_and_say_so(tree: Tree) -> None:
    root = tree(
        *("/boot/vmlinuz-6.12.old", "/boot/initrd.img-6.12.old", "/boot/vmlinuz-6.13~", "/boot/vmlinuz-6.1"),
        *("/boot/vmlinuz-0-rescue-0f1e", "/boot/initramfs-0-rescue-0f1e.img", "/boot/initrd.img-6.1"),
    )
    found = entries(root)
    assert [(entry.id, entry.problems) for entry in found] == [
        ("vmlinuz-6.1", ()),
        ("vmlinuz-6.13~", ("it is a backup copy",)),
        ("vmlinuz-6.12.old", ("it is a backup copy",)),
        ("vmlinuz-0-rescue-0f1e", ("it is a rescue kernel",)),
    ]
    assert found[2].initrds == ("/boot/initrd.img-6.12.old",)
    assert found[3].initrds == ("/boot/initramfs-0-rescue-0f1e.img",)


def test_a_kernel_named_without_version_tells_it_inside(tree: Tree) -> None:
    root = tree("/boot/vmlinuz-linux-lts", "/boot/initramfs-linux-lts.img", "/boot/initramfs-linux.img")
    Path(root, "boot/vmlinuz-linux-lts").write_bytes(bzimage("6.12.9-1-lts (x) #1"))
    (found,) = entries(root)
    assert (found.id, found.version, found.initrds) == (
        "vmlinuz-linux-lts",
        "6.12.9-1-lts",
        ("/boot/initramfs-linux-lts.img",),
    )


def test_a_link_without_version_is_no_kernel_of_its_own(tree: Tree) -> None:
    root = tree("/boot/vmlinuz-6.1")
    Path(root, "boot/vmlinuz-current").symlink_to("vmlinuz-6.1")
    assert pairs(root) == [("vmlinuz-6.1",)]


def test_a_link_is_followed_inside_the_root(tree: Tree) -> None:
    root = tree("/usr/lib/modules/6.1-captured/vmlinuz")
    Path(root, "boot").mkdir()
    Path(root, "boot/vmlinuz-6.1-captured").symlink_to("/usr/lib/modules/6.1-captured/vmlinuz")
    assert entries(root)[0].problems == ()


def test_what_cannot_be_taken_says_why(tree: Tree) -> None:
    root = tree("/boot/vmlinuz-6.1/", "/boot/vmlinuz-6.2", "/boot/initrd.img-6.6/", "/boot/vmlinuz-6.6")
    boot = Path(root, "boot")
    (boot / "vmlinuz-6.2").write_bytes(b"")
    (boot / "vmlinuz-6.3").symlink_to("vmlinuz-6.3")
    (boot / "vmlinuz-6.4").symlink_to("nowhere")
    os.mkfifo(boot / "vmlinuz-6.5")
    assert {entry.version: entry.problems for entry in entries(root)} == {
        "6.6": ("/boot/initrd.img-6.6 is a directory",),
        "6.5": ("/boot/vmlinuz-6.5 is a FIFO",),
        "6.4": ("there is no /boot/vmlinuz-6.4",),
        "6.3": ("/boot/vmlinuz-6.3 cannot be read: too many levels of symbolic links",),
        "6.2": ("/boot/vmlinuz-6.2 is empty",),
        "6.1": ("/boot/vmlinuz-6.1 is a directory",),
    }


@pytest.mark.parametrize("modules", ["/lib/modules/6.2/", "/usr/lib/modules/6.2/"])
def test_a_kernel_with_modules_misses_its_initrd_where_others_have_theirs(tree: Tree, modules: str) -> None:
    root = tree("/boot/vmlinuz-6.1", "/boot/initrd.img-6.1", "/boot/vmlinuz-6.2", "/boot/vmlinuz-6.3", modules)
    assert {entry.version: entry.problems for entry in entries(root)} == {
        "6.3": (),  # no modules: it has everything built in
        "6.2": ("there is no initrd for 6.2, though there are others",),
        "6.1": (),
    }


def test_where_no_kernel_has_an_initrd_none_is_missed(tree: Tree) -> None:
    root = tree("/boot/kernel-6.6.30-gentoo", "/lib/modules/6.6.30-gentoo/")
    assert entries(root)[0].problems == ()


def test_another_boot_directory_is_searched(tree: Tree) -> None:
    assert pairs(tree("/efi/kernel-6.6", "/efi/initramfs-6.6.img"), "/efi/") == [("kernel-6.6", "initramfs-6.6.img")]


@pytest.mark.parametrize("paths", [(), ("/boot",), ("/boot/",)])
def test_without_a_boot_directory_there_are_no_entries(tree: Tree, tmp_path: Path, paths: tuple[str, ...]) -> None:
    tree(*paths)
    assert entries(str(tmp_path)) == ()


def test_a_boot_directory_that_cannot_be_read_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "boot").symlink_to("boot")
    with pytest.raises(NoEntry, match="cannot look for kernels in /boot"):
        entries(str(tmp_path))


def test_thousands_of_files_and_a_huge_one_take_no_time(tree: Tree) -> None:
    root = tree(*(f"/boot/vmlinuz-6.1.{n}" for n in range(3000)), "/boot/vmlinuz-linux")
    os.truncate(Path(root, "boot/vmlinuz-linux"), 10 << 30)
    started = time.monotonic()
    assert len(entries(root)) == 3001
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("/boot/k", "/boot/k"),
        ("../boot/./k", "/boot/k"),
        ("../../../x", "/x"),
        ("gone/k", "/etc/gone/k"),
        ("loop", "/etc/link"),
    ],
)
def test_links_are_resolved_inside_the_root(tmp_path: Path, link: str, expected: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/link").symlink_to(link)
    (tmp_path / "etc/loop").symlink_to("link")
    assert resolve("/etc/link", str(tmp_path)) == expected


@pytest.mark.parametrize("path", ["/a\0b", "/dev/null"])
def test_a_path_that_no_kernel_can_have_is_a_problem(path: str) -> None:
    assert problem(path)


@given(st.one_of(st.text(max_size=30), st.text("vmlinuz-kerge0169.~old", max_size=30).map("vmlinuz-".__add__)))
def test_any_name_is_a_kernels_or_not(name: str) -> None:
    parsed = parse_name(name)
    if parsed is not None:
        assert parsed.version
        assert parsed.version in name
