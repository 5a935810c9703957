# SPDX-License-Identifier: MIT
"""What /sys/block says of devices that stand on others; the trees are those of a root on LVM on LUKS on md RAID1."""

from __future__ import annotations

from pathlib import Path

import pytest

from kexecd.kernel import block

TREE = {
    "sys/block/sda/dev": "8:0\n",
    "sys/block/zram0/dev": "252:0\n",
    "sys/block/loop0/dev": "7:0\n",
    "sys/block/loop0/loop/backing_file": "/data/disk.img \n",
    "sys/block/loop0/loop/autoclear": "1\n",
    "sys/block/loop0/loop0p1/dev": "259:0\n",
    "sys/block/loop1/dev": "7:1\n",
    "sys/block/md127/dev": "9:127\n",
    "sys/block/md127/md/array_state": "active\n",
    "sys/block/md127/md/metadata_version": "1.2\n",
    "sys/block/md127/md/sync_action": "idle\n",
    "sys/block/md127/slaves/sda1": "",
    "sys/block/md127/slaves/sdb1": "",
    "sys/block/md127/md127p1/dev": "259:1\n",
    "sys/block/md1/dev": "9:1\n",
    "sys/block/md1/md/array_state": "clean\n",
    "sys/block/md1/md/metadata_version": "1.2\n",
    "sys/block/md1/md/sync_action": "resync\n",
    "sys/block/md2/dev": "9:2\n",
    "sys/block/md2/md/array_state": "clear\n",
    "sys/block/dm-0/dev": "253:0\n",
    "sys/block/dm-0/dm/name": "luks-root\n",
    "sys/block/dm-0/dm/uuid": "CRYPT-LUKS2-00ff-luks-root\n",
    "sys/block/dm-0/slaves/md127p1": "",
    "sys/block/dm-1/dev": "253:1\n",
    "sys/block/dm-1/dm/name": "vg-root\n",
    "sys/block/dm-1/dm/uuid": "LVM-abc\n",
    "sys/block/dm-1/slaves/dm-0": "",
    "sys/fs/btrfs/features/raid1": "",
    "sys/fs/btrfs/00ff-11/devices/sdc": "",
    "sys/fs/btrfs/00ff-11/devices/sdd": "",
    "sys/class/block/sdc/dev": "8:32\n",
    "sys/class/block/sdd/dev": "8:48\n",
    "sys/class/block/dm-1/dev": "253:1\n",
    "sys/class/block/sde/dev": "8:64\n",
    "sys/fs/ext4/features/verity": "",
    "sys/fs/ext4/dm-1/errors_count": "0\n",
    "sys/fs/xfs/sde/log": "",
    "proc/fs/ext4/dm-1/options": "ro\nerrors=remount-ro\n",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n"
    "/data/swap\\040file\tfile\t1020\t12\t-2\n/dev/dm-3\tpartition\t999420\t0\t-3\n/dev/zram0\tpartition\t9\t9\t100\n",
}


@pytest.fixture
def root(tmp_path: Path) -> str:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path)


def test_a_loop_device_in_use_has_its_file_and_its_partitions(root: str) -> None:
    (loop,) = block.loops(root)
    assert (loop.device, loop.backing, loop.autoclear) == ("/dev/loop0", "/data/disk.img ", True)
    assert loop.names == {"loop0", "loop0p1"} and loop.numbers == {"7:0", "259:0"}


def test_volumes_and_arrays_are_found_with_what_they_are_made_of(root: str) -> None:
    found = {device.device: device for device in block.stacked(root)}
    assert set(found) == {"/dev/mapper/luks-root", "/dev/mapper/vg-root", "/dev/md127", "/dev/md1"}
    array = found["/dev/md127"]
    assert array.is_md and array.state == "active" and array.below == {"sda1", "sdb1"} and not array.resyncing
    assert array.names == {"md127", "md127p1"} and array.numbers == {"9:127", "259:1"}
    assert found["/dev/md1"].resyncing
    luks = found["/dev/mapper/luks-root"]
    assert not luks.is_md and luks.name == "dm-0" and luks.uuid.startswith("CRYPT-LUKS2") and luks.below == {"md127p1"}


def test_swap_is_a_file_or_not_and_used_or_not(root: str) -> None:
    assert block.swaps(root) == (
        block.Swap("/data/swap file", True, 12288),
        block.Swap("/dev/dm-3", False, 0),
        block.Swap("/dev/zram0", False, 9216),
    )


def test_a_btrfs_names_all_of_its_devices(root: str) -> None:
    assert block.pools(root) == (frozenset(("sdc", "sdd")),)


def test_what_is_open_is_seen_without_being_mounted(root: str) -> None:
    found = {live.name: live for live in block.live(root)}
    assert set(found) == {"dm-1", "sde", "sdc"}
    assert not found["dm-1"].writable  # ext4 says so
    assert found["sde"].writable and found["sdc"].writable  # the others do not say, so they count as such
    assert found["sdc"].numbers == {"8:32", "8:48"}


def test_a_machine_without_any_of_it_has_none(tmp_path: Path) -> None:
    assert block.storage(str(tmp_path)) == block.Storage() and block.live(str(tmp_path)) == ()


@pytest.mark.parametrize(
    ("path", "names"),
    [("/dev/mapper/vg-root", ["vg-root"]), ("/dev/dm-0", ["dm-0"]), ("/dev/cciss/c0d0", ["cciss!c0d0"]), ("tank", [])],
)
def test_a_device_is_known_to_sysfs_by_another_name(path: str, names: list[str]) -> None:
    assert list(block.device_names(path)) == names
