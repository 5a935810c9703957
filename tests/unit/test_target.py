# SPDX-License-Identifier: MIT
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd.config.settings import Settings
from kexecd.errors import BadConfig, BadImage
from kexecd.kernel.cmdline import NO_EDITS, Edits
from kexecd.model import BootEntry, BootTarget, Source
from kexecd.target import NO_ROOM, make_target, opened
from tests.unit import initrds
from tests.unit.images import bzimage, pe

RUNNING = "BOOT_IMAGE=/boot/vmlinuz-6.1 root=UUID=1f2e rootflags=subvol=@ ro quiet"
ENTRY = BootEntry(
    id="vmlinuz-6.1",
    title="Linux 6.1",
    version="6.1",
    source=Source.VERSIONED,
    kernel="/boot/vmlinuz-6.1",
    initrds=("/boot/microcode.img", "/boot/initrd.img-6.1"),
)


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6.1").write_bytes(bzimage(certificate=64))
    (tmp_path / "boot/microcode.img").write_bytes(initrds.early())
    (tmp_path / "boot/initrd.img-6.1").write_bytes(initrds.zstd(initrds.tree()))
    return str(tmp_path)


def open_fds() -> set[str]:
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return {os.readlink(link) for link in links if os.path.lexists(link)}


def make(
    root: str,
    entry: BootEntry = ENTRY,
    settings: Settings | None = None,
    *,
    running: str | None = RUNNING,
    edits: Edits = NO_EDITS,
    machine: str = "",
    deep: bool = False,
    panic: int = 0,
) -> BootTarget:
    return make_target(
        entry,
        settings or Settings(),
        running_cmdline=running,
        nonce="n1",
        root=root,
        edits=edits,
        machine=machine,
        deep=deep,
        panic=panic,
    )


def cmdline(
    root: str,
    entry: BootEntry = ENTRY,
    settings: Settings | None = None,
    *,
    running: str | None = RUNNING,
    edits: Edits = NO_EDITS,
) -> str:
    with opened(make(root, entry, settings, running=running, edits=edits)) as target:
        return target.cmdline


def write(root: str, name: str, content: str | bytes) -> None:
    path = Path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_the_files_are_open_until_the_end(root: str) -> None:
    with opened(make(root)) as target:
        assert os.pread(target.kernel.fd, 4, 0x202) == b"HdrS"
        assert [file.path for file in target.initrds] == list(ENTRY.initrds)
        assert target.kernel.path == "/boot/vmlinuz-6.1"
        assert target.kernel.size == os.stat(f"{root}/boot/vmlinuz-6.1").st_size
        assert not os.get_inheritable(target.kernel.fd)
    assert not any(name.startswith(root) for name in open_fds())


def test_the_image_knows_its_version_better_than_its_name(root: str) -> None:
    with opened(make(root)) as target:
        assert target.entry == replace(ENTRY, version="6.1.0-50-amd64")


def test_a_link_leads_inside_the_root(root: str) -> None:
    Path(root, "vmlinuz").symlink_to("/boot/vmlinuz-6.1")
    with opened(make(root, replace(ENTRY, kernel="/vmlinuz"))) as target:
        assert target.kernel.path == "/vmlinuz"


def test_the_running_command_line_is_reused(root: str) -> None:
    assert cmdline(root) == "root=UUID=1f2e rootflags=subvol=@ ro quiet kexecd.nonce=n1"


def test_a_configured_command_line_replaces_it(root: str) -> None:
    assert cmdline(root, settings=Settings(cmdline="root=/dev/vda1 ro")) == "root=/dev/vda1 ro kexecd.nonce=n1"


def test_the_entrys_own_command_line_comes_first(root: str) -> None:
    entry = replace(ENTRY, cmdline="root=LABEL=x")
    assert cmdline(root, entry, Settings(cmdline="ro", root="/dev/vda1")) == "root=LABEL=x kexecd.nonce=n1"


def test_an_entry_whose_command_line_names_no_root_needs_none(root: str) -> None:
    assert cmdline(root, replace(ENTRY, cmdline="quiet"), Settings(root="/dev/vda1")) == "quiet kexecd.nonce=n1"


def test_rootpart_is_used_where_there_is_no_root(root: str) -> None:
    settings = Settings(cmdline="ro -- single", root="/dev/vda2")
    assert cmdline(root, settings=settings) == "ro root=/dev/vda2 kexecd.nonce=n1 -- single"
    assert cmdline(root, settings=Settings(root="/dev/vda2"), running="quiet") == "quiet root=/dev/vda2 kexecd.nonce=n1"


@pytest.mark.parametrize("settings", [Settings(cmdline="root=UUID=2 ro", root="/dev/vda2"), Settings(root="/dev/vda2")])
def test_rootpart_never_overrides_a_root_that_is_there(root: str, settings: Settings) -> None:
    assert "root=/dev/vda2" not in cmdline(root, settings=settings)


def test_a_configured_command_line_without_root_keeps_the_running_one(root: str) -> None:
    assert cmdline(root, settings=Settings(cmdline="ro rootfstype=btrfs")) == (
        "ro rootfstype=btrfs root=UUID=1f2e rootflags=subvol=@ kexecd.nonce=n1"
    )


def test_what_is_appended_comes_last_but_for_the_nonce(root: str) -> None:
    assert cmdline(root, edits=Edits(append='x="a b"')).endswith(' ro quiet x="a b" kexecd.nonce=n1')


def test_the_person_has_the_last_word(root: str) -> None:
    edits = Edits(remove=("quiet",), set=("root=/dev/vdb1",), append="debug")
    assert cmdline(root, edits=edits) == "root=/dev/vdb1 rootflags=subvol=@ ro debug kexecd.nonce=n1"
    entry = replace(ENTRY, cmdline="root=LABEL=x")
    assert cmdline(root, entry, edits=Edits(line="single")) == "single kexecd.nonce=n1"


def test_what_is_written_down_for_every_kernel_comes_before_the_running_line(root: str) -> None:
    write(root, "usr/lib/kernel/cmdline", "vendor\n")
    assert cmdline(root).startswith("vendor root=UUID=1f2e ")
    write(root, "etc/kernel/cmdline", "# for all\nroot=UUID=77\n  quiet splash\n")
    assert cmdline(root) == "root=UUID=77 quiet splash kexecd.nonce=n1"
    assert cmdline(root, settings=Settings(cmdline="root=/dev/x")) == "root=/dev/x kexecd.nonce=n1"
    assert cmdline(root, replace(ENTRY, cmdline="root=LABEL=x")) == "root=LABEL=x kexecd.nonce=n1"


def test_one_that_cannot_be_read_is_not_passed_over(root: str) -> None:
    Path(root, "etc/kernel/cmdline").mkdir(parents=True)
    with pytest.raises(BadConfig, match="cannot read /etc/kernel/cmdline: "):
        make(root)


def test_ten_kexecs_in_a_row_leave_the_command_line_unchanged(root: str) -> None:
    settings = Settings(cmdline="ro", root="/dev/vda2")
    first = line = cmdline(root, settings=settings)
    for _ in range(9):
        line = cmdline(root, settings=settings, running=line)
    assert line == first
    first = line = cmdline(root)
    for _ in range(9):
        line = cmdline(root, running=line)
    assert line == first


def test_a_command_line_too_long_for_the_image_is_refused(root: str) -> None:
    Path(root, "boot/vmlinuz-6.1").write_bytes(bzimage(cmdline_size=255))
    with pytest.raises(BadConfig, match="more than the 224 that the new kernel takes"):
        make(root, edits=Edits(append="x" * 250))
    assert not any(name.startswith(root) for name in open_fds())


def test_a_kernel_of_another_machine_is_refused(root: str) -> None:
    with pytest.raises(BadImage, match="it is a kernel for x86_64, this machine is aarch64"):
        make(root, machine="aarch64")
    with opened(make(root, machine="x86_64")):
        pass


@pytest.mark.parametrize(
    ("path", "content", "why"),
    [
        ("boot/vmlinuz-6.1", b"#!/bin/sh", "it is not a kernel image"),
        ("boot/vmlinuz-6.1", bzimage()[:-1], "the file is truncated: 1 bytes are missing"),
        ("boot/vmlinuz-6.1", b"", "it is empty"),
        ("boot/microcode.img", bytes(100), "it is not an initrd"),
        ("boot/initrd.img-6.1", b"", "it is empty"),
    ],
)
def test_a_refusal_leaves_nothing_open(root: str, path: str, content: bytes, why: str) -> None:
    Path(root, path).write_bytes(content)
    with pytest.raises(BadImage, match=why):
        make(root)
    assert not any(name.startswith(root) for name in open_fds())


@pytest.mark.parametrize("name", ["vmlinuz-6.1", "initrd.img-6.1"])
def test_a_fifo_or_nothing_in_its_place_is_refused(root: str, name: str) -> None:
    Path(root, "boot", name).unlink()
    with pytest.raises(BadImage, match="there is no such file"):
        make(root)
    os.mkfifo(Path(root, "boot", name))
    with pytest.raises(BadImage, match="it is a FIFO"):
        make(root)


# Initrds


def test_microcode_comes_first_wherever_it_is_named(root: str) -> None:
    entry = replace(ENTRY, initrds=("/boot/initrd.img-6.1", "/boot/microcode.img"))
    with opened(make(root, entry)) as target:
        assert [file.path for file in target.initrds] == ["/boot/microcode.img", "/boot/initrd.img-6.1"]


def test_a_cut_initrd_is_refused(root: str) -> None:
    content = Path(root, "boot/initrd.img-6.1").read_bytes()
    write(root, "boot/initrd.img-6.1", content[:-5])
    with pytest.raises(BadImage, match="initrd.img-6.1 as initrd: the file is truncated: at least 5 bytes are missing"):
        make(root)
    assert not any(name.startswith(root) for name in open_fds())


def test_an_initrd_of_another_kernel_is_refused_with_both_versions(root: str) -> None:
    write(root, "boot/initrd.img-6.1", initrds.gzip(initrds.tree("5.10.0-1-amd64")))
    with pytest.raises(BadImage, match=r"the modules of 5\.10\.0-1-amd64, and the kernel is 6\.1\.0-50-amd64"):
        make(root, deep=True)
    with opened(make(root)):  # without looking into what is compressed nobody can know
        pass


def test_the_initrd_of_this_kernel_is_taken(root: str) -> None:
    with opened(make(root, deep=True)) as target:
        assert target.entry.remarks == ()


def test_what_would_surprise_at_the_next_boot_is_remarked(root: str) -> None:
    entry = replace(ENTRY, initrds=("/boot/microcode.img",), remarks=("as found",))
    with opened(make(root, entry)) as target:
        assert target.entry.remarks == (
            "as found",
            "its initrd holds nothing but what the kernel reads early, such as microcode",
        )
    with opened(make(root, replace(ENTRY, initrds=()))) as target:
        assert "without one a kernel does not find root=UUID=1f2e" in target.entry.remarks[0]
    write(root, "boot/initrd.img-6.1", initrds.newc("init"))
    with opened(make(root, deep=True)) as target:
        assert "it holds no modules" not in target.entry.remarks[0]
        assert "its initrd holds no modules" in target.entry.remarks[0]
    write(root, "boot/initrd.img-6.1", initrds.newc("init", "ext4.ko.xz"))  # as tiny-initramfs has them
    with opened(make(root, deep=True)) as target:
        assert target.entry.remarks == ()


# A kernel that is wrapped


@pytest.fixture
def uki_root(root: str) -> str:
    parts = {
        "uname": b"6.12.9-dist\n",
        "cmdline": b"root=UUID=5 quiet\n\0",
        "linux": bzimage("6.12.9-dist (a@b) #1"),
        "initrd": initrds.zstd(initrds.tree("6.12.9-dist")),
        "ucode": initrds.early(),
    }
    write(root, "efi/x.efi", pe(**parts))
    return root


UKI = replace(ENTRY, kernel="/efi/x.efi", initrds=(), version="")


def test_a_unified_kernel_image_is_taken_apart(uki_root: str) -> None:
    with opened(make(uki_root, UKI, machine="x86_64", deep=True)) as target:
        assert target.kernel.path == "/efi/x.efi (.linux)"
        assert os.pread(target.kernel.fd, 4, 0x202) == b"HdrS"
        assert [file.path for file in target.initrds] == ["/efi/x.efi (.ucode)", "/efi/x.efi (.initrd)"]
        assert target.cmdline == "root=UUID=5 quiet kexecd.nonce=n1"
        assert target.entry.version == "6.12.9-dist"
        assert not any(name.startswith(uki_root) for name in open_fds())
    assert not [name for name in open_fds() if "memfd:." in name]


def test_an_initrd_that_is_named_replaces_its_own_and_not_its_microcode(uki_root: str) -> None:
    with opened(make(uki_root, replace(UKI, initrds=("/boot/initrd.img-6.1",)))) as target:
        assert [file.path for file in target.initrds] == ["/efi/x.efi (.ucode)", "/boot/initrd.img-6.1"]
        assert sum("memfd:." in name for name in open_fds()) == 2


def test_its_command_line_gives_way_to_one_that_the_entry_has(uki_root: str) -> None:
    assert cmdline(uki_root, replace(UKI, cmdline="root=LABEL=x")) == "root=LABEL=x kexecd.nonce=n1"
    assert cmdline(uki_root, UKI, Settings(cmdline="root=/dev/x")) == "root=UUID=5 quiet kexecd.nonce=n1"


def test_a_refusal_leaves_nothing_of_it_open(uki_root: str) -> None:
    with pytest.raises(BadConfig):
        make(uki_root, UKI, edits=Edits(append='"'))
    with pytest.raises(BadImage, match="it is a kernel for x86_64"):
        make(uki_root, UKI, machine="aarch64")
    assert not any("memfd:." in name or name.startswith(uki_root) for name in open_fds())


# The way back


def test_the_way_back_comes_behind_the_nonce(root: str) -> None:
    with opened(make(root, running="root=/dev/vda kexecd.nonce=n0 panic=7 rd.shell=0 quiet", panic=30)) as target:
        assert target.cmdline == "root=/dev/vda quiet kexecd.nonce=n1 panic=30 rd.shell=0 rd.emergency=reboot"
        assert target.entry.remarks == ()


def test_a_line_that_has_no_room_for_it_goes_without_and_that_is_told(root: str) -> None:
    full = "root=/dev/vda ".ljust(1980, "x")
    with opened(make(root, running=full, panic=30)) as target:
        assert target.cmdline == f"{full} kexecd.nonce=n1"
        assert target.entry.remarks == (NO_ROOM,)
    with pytest.raises(BadConfig, match="more than"):
        make(root, running=full.ljust(2048, "x"), panic=30)


def test_what_is_appended_comes_before_it_and_lasts(root: str) -> None:
    with opened(make(root, edits=Edits(append="panic=5 debug"), panic=30)) as target:
        assert target.cmdline.endswith(" panic=5 debug kexecd.nonce=n1 rd.shell=0 rd.emergency=reboot")


# Another system's


def test_another_systems_root_comes_from_its_own_fstab_and_never_from_here(root: str) -> None:
    write(root, "etc/fstab", "# <file system>\nUUID=77-88 / btrfs subvol=@,noatime 0 1\n")
    assert cmdline(root, running=None) == "root=UUID=77-88 rootflags=subvol=/@ kexecd.nonce=n1"
    entry = replace(ENTRY, cmdline="quiet -- single")
    assert cmdline(root, entry, running=None) == ("quiet root=UUID=77-88 rootflags=subvol=/@ kexecd.nonce=n1 -- single")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/dev/disk/by-uuid/77-88", "UUID=77-88"),
        ("LABEL=gentoo", "LABEL=gentoo"),
        ('PARTUUID="1-2"', "PARTUUID=1-2"),
        ("/dev/mapper/vg-root", "/dev/mapper/vg-root"),
    ],
)
def test_it_is_named_as_fstab_names_it(root: str, source: str, expected: str) -> None:
    write(root, "etc/fstab", f"{source} / ext4 defaults 0 1\n")
    assert cmdline(root, running=None) == f"root={expected} kexecd.nonce=n1"


def test_a_root_of_its_own_command_line_or_of_the_person_is_left_alone(root: str) -> None:
    write(root, "etc/fstab", "UUID=77 / ext4 defaults 0 1\n")
    entry = replace(ENTRY, cmdline="root=LABEL=x")
    assert cmdline(root, entry, running=None) == "root=LABEL=x kexecd.nonce=n1"
    assert cmdline(root, running=None, edits=Edits(set=("root=/dev/sdb2",))) == "root=/dev/sdb2 kexecd.nonce=n1"
    assert cmdline(root, running=None, edits=Edits(line="rescue")) == "rescue kexecd.nonce=n1"
    assert cmdline(root, settings=Settings(root="/dev/sdc1"), running=None) == "root=/dev/sdc1 kexecd.nonce=n1"


@pytest.mark.parametrize("fstab", ["", "tmpfs / tmpfs defaults 0 0\n", "rpool/ROOT/x / zfs defaults 0 0\n"])
def test_where_its_root_cannot_be_told_it_is_refused(root: str, fstab: str) -> None:
    write(root, "etc/fstab", fstab)
    with pytest.raises(BadConfig, match=r"its root= cannot be told"):
        make(root, running=None)
    assert not any(name.startswith(root) for name in open_fds())


def test_its_files_are_called_by_their_paths_from_here(root: str) -> None:
    write(root, "etc/fstab", "UUID=77 / ext4 defaults 0 1\n")
    with opened(make(root, running=None)) as target:
        assert target.kernel.path == f"{root}/boot/vmlinuz-6.1"
        assert target.entry.kernel == "/boot/vmlinuz-6.1"


def test_a_device_tree_that_is_not_passed_on_is_told(root: str) -> None:
    with opened(make(root, replace(ENTRY, devicetree="/boot/dtbs/board.dtb"))) as target:
        assert any("/boot/dtbs/board.dtb" in remark for remark in target.entry.remarks)
    with opened(make(root)) as target:
        assert not any("device tree" in remark for remark in target.entry.remarks)
