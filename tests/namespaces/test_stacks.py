# SPDX-License-Identifier: MIT
"""Stacks of filesystems, loop devices and swap files: taken down in an order that leaves each of them clean."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

import pytest

from kexecd.kernel import block, mountinfo
from kexecd.model import Cleanliness
from kexecd.teardown.filesystems import Unmount
from kexecd.teardown.sync import Sync
from kexecd.teardown.verdict import Verify
from tests.namespaces.disks import below, disk, graph_below, image, libc, mount, remains_below, replays
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import command, notes, walk


def comes_down_clean(top: Path) -> None:
    """Everything below `top` is unmounted and detached, without a word, and the verdict is clean."""
    steps = Sync(mounts=below(top)), Unmount(look=graph_below(top)), Verify(look=remains_below(top))
    result, events, _ = walk(*steps)
    assert below(top)() == (), notes(events)
    assert not [loop for loop in block.loops() if loop.backing.startswith(f"{top}/")], notes(events)
    assert not result.failures and not notes(events), notes(events)
    assert result.verdict.cleanliness is Cleanliness.CLEAN, result.verdict.sentence()


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
def test_files_that_were_never_synced_are_whole_on_each_kind_of_disk(tmp_path: Path, fstype: str) -> None:
    content = os.urandom(3 << 20)

    @isolated
    def inside() -> None:
        point = disk(tmp_path, "disk", fstype)
        (point / "file").write_bytes(content)
        comes_down_clean(tmp_path)
        assert not replays(tmp_path / "disk.img", fstype)
        mount(tmp_path / "disk.img", point, "-o", "loop,ro")
        assert (point / "file").read_bytes() == content

    inside()


@isolated
def test_a_btrfs_on_two_disks_with_two_subvolumes_mounted_is_closed_with_the_last(tmp_path: Path) -> None:
    outer = disk(tmp_path, "outer", mib=300)
    loops = []
    for name in ("one", "two"):
        command("losetup", "--find", image(outer, name, mib=128))
        loops.append(next(loop.device for loop in block.loops() if loop.backing == f"{outer}/{name}.img"))
    command("mkfs.btrfs", "-q", "-d", "raid1", "-m", "raid1", *loops)
    root = mount(loops[0], tmp_path / "root")
    for name in ("home", "srv"):
        command("btrfs", "-q", "subvolume", "create", root / name)
        mount(loops[0], tmp_path / name, "-o", f"subvol={name}")
        (tmp_path / name / "file").write_bytes(os.urandom(1 << 20))
    assert len(below(tmp_path)()) == 4
    comes_down_clean(tmp_path)  # the second loop device is in no line of mountinfo
    assert not replays(tmp_path / "outer.img", "ext4")


@isolated
def test_an_overlay_on_a_loop_on_a_loop_on_a_disk_with_a_swap_file(tmp_path: Path) -> None:
    outer = disk(tmp_path, "outer", mib=200)
    middle = disk(outer, "middle", mib=100)
    inner = disk(middle, "inner", mib=32)
    swapfile = outer / "swap file"
    swapfile.write_bytes(bytes(1 << 20))
    swapfile.chmod(0o600)
    command("mkswap", "-q", swapfile)
    for name in ("upper", "work", "a:b", "c,d"):
        (inner / name).mkdir()
    escaped = f"{inner}/a\\:b:{inner}/c\\,d"
    options = f"lowerdir={escaped},upperdir={inner}/upper,workdir={inner}/work"
    mount("overlay", outer / "merged", "-t", "overlay", "-o", options)
    (outer / "merged" / "file").write_bytes(os.urandom(1 << 20))
    mount(outer, tmp_path / "view", "--bind")
    mount("memory", middle / "memory", "-t", "tmpfs")
    command("swapon", swapfile)  # the machine's own, for a moment
    try:
        assert any(swap.path == str(swapfile) for swap in block.swaps())
        comes_down_clean(tmp_path)
        assert not any(swap.path == str(swapfile) for swap in block.swaps())
    finally:
        libc.swapoff(os.fsencode(swapfile))
    assert not replays(tmp_path / "outer.img", "ext4")


@isolated
def test_no_name_is_too_strange_to_be_unmounted(tmp_path: Path) -> None:
    names = [
        "a b", "new\nline", "back\\slash", "tab\there", "return\rhere", "form\ffeed", "#hash", "\\040", "\udcff\udcfe",
        "next\x85line", " ", "ends in blank ", "(deleted)", "a//deleted",
    ]  # fmt: skip
    outer = disk(tmp_path, "outer", mib=64)
    for name in names:
        point = Path(f"{outer}/{name}")
        mount("memory", point, "-t", "tmpfs")
        inner = disk(point, f"disk {name.replace('/', '')}", mib=2)
        assert any(loop.backing.startswith(f"{point}/") for loop in block.loops()), name
        mount(inner, Path(f"{outer}/view of {name.replace('/', '')}"), "--bind")
    assert len(below(tmp_path)()) == 1 + 3 * len(names)
    comes_down_clean(tmp_path)


@isolated
def test_a_mount_that_another_one_hides_is_unmounted_after_that(tmp_path: Path) -> None:
    middle = tmp_path / "top" / "middle"
    middle.mkdir(parents=True)
    hidden = disk(middle, "hidden")
    inner = disk(disk(middle, "outer", mib=32), "inner", mib=4)
    mount("memory", tmp_path / "top", "-t", "tmpfs")  # over all of that
    assert not hidden.exists() and not inner.exists()
    assert len(below(tmp_path)()) == 4
    comes_down_clean(tmp_path)


@isolated
def test_an_automount_whose_daemon_is_silent_is_not_triggered(tmp_path: Path) -> None:
    outer = disk(tmp_path, "outer")
    (outer / "auto").mkdir()
    daemon = os.fork()
    if daemon == 0:
        signal.pause()  # it answers nothing
    os.setpgid(daemon, daemon)
    reader, writer = os.pipe()
    options = f"fd={writer},pgrp={daemon},minproto=5,maxproto=5,indirect"
    assert libc.mount(b"test", os.fsencode(outer / "auto"), b"autofs", ctypes.c_ulong(0), options.encode()) == 0
    assert [mountinfo.kind(m) for m in below(tmp_path)()] == [mountinfo.Kind.DISK, mountinfo.Kind.KERNEL]
    comes_down_clean(tmp_path)
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 4096)  # what the kernel would ask of the daemon
