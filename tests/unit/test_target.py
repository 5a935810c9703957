# SPDX-License-Identifier: MIT
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd.config.settings import Settings
from kexecd.errors import BadConfig, BadImage
from kexecd.model import BootEntry, BootTarget, Source
from kexecd.target import make_target, opened
from tests.unit.images import bzimage

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
    (tmp_path / "boot/microcode.img").write_bytes(b"070701" + bytes(200))
    (tmp_path / "boot/initrd.img-6.1").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    return str(tmp_path)


def open_fds() -> set[str]:
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return {os.readlink(link) for link in links if os.path.lexists(link)}


def make(root: str, entry: BootEntry = ENTRY, settings: Settings | None = None, **more: str) -> BootTarget:
    return make_target(
        entry, settings or Settings(), running_cmdline=more.pop("running", RUNNING), nonce="n1", root=root, **more
    )


def cmdline(root: str, entry: BootEntry = ENTRY, settings: Settings | None = None, **more: str) -> str:
    with opened(make(root, entry, settings, **more)) as target:
        return target.cmdline


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
    assert cmdline(root, append='x="a b"').endswith(' ro quiet x="a b" kexecd.nonce=n1')


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
        make(root, append="x" * 250)
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
