# SPDX-License-Identifier: MIT
"""What is made of what is left, and that the last act would judge the same."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from kexecd.kernel import mountinfo
from kexecd.kernel.block import Live, Loop, Stacked, Storage, Swap
from kexecd.kernel.namespaces import Namespace
from kexecd.model import Cleanliness, Left, Verdict
from kexecd.teardown.holders import Holder
from kexecd.teardown.verdict import UNWRITTEN, Remains, judge
from kexecd.teardown.workers import Call

ROOT = mountinfo.parse("22 1 253:1 / / ro - ext4 /dev/mapper/vg-root ro")
DATA = mountinfo.parse("40 22 254:16 / /data rw - ext4 /dev/vdb rw")
NET = mountinfo.parse("43 22 0:45 / /net rw - nfs4 server:/export rw")
VOLUME = Stacked("dm-1", frozenset(("dm-1",)), frozenset(("253:1",)), frozenset(("dm-0",)), "vg-root")
ARRAY = Stacked("md0", frozenset(("md0",)), frozenset(("9:0",)), frozenset(("sda",)), state="clean")


def texts(lefts: tuple[Left, ...]) -> list[str]:
    return [str(left) for left in lefts]


def test_a_machine_with_nothing_left_is_clean() -> None:
    verdict = judge(Remains())
    assert verdict.cleanliness is Cleanliness.CLEAN and verdict.sentence() == "clean"


def test_a_disk_that_can_be_written_is_dirt_and_names_who_holds_it() -> None:
    verdict = judge(Remains(DATA, holders=(Holder("/data", 812, "postgres", "/data/wal", "open"),)))
    assert verdict.sentence() == "dirty: /data (/dev/vdb, ext4) is still writable, held by postgres (812, /data/wal)"


def test_a_network_mount_is_residue() -> None:
    verdict = judge(Remains(NET))
    assert verdict.sentence() == "expected residue: /net (server:/export, nfs4) is still mounted"


def test_a_read_only_root_on_a_volume_is_residue_that_says_why() -> None:
    verdict = judge(Remains(ROOT, storage=Storage(stacked=(VOLUME,))))
    assert verdict.sentence() == "expected residue: /dev/mapper/vg-root stays, / is on it"


@pytest.mark.parametrize(
    ("state", "resyncing", "why"),
    [
        ("clean", False, "stays"),
        ("active", False, "is not marked clean, so that its next start checks it"),
        ("active", True, "goes on resynchronising after the restart"),
    ],
)
def test_an_array_says_whether_it_was_marked_clean(state: str, resyncing: bool, why: str) -> None:
    array = Stacked("md0", frozenset(("md0",)), frozenset(), frozenset(), state=state, resyncing=resyncing)
    assert texts(judge(Remains(storage=Storage(stacked=(array,)))).residue) == [f"/dev/md0 {why}"]


def test_loop_devices_and_swap_files_that_stay_lose_nothing() -> None:
    storage = Storage(loops=(Loop("loop0", "/x", True),), swaps=(Swap("/swapfile", True), Swap("/dev/vda2", False)))
    verdict = judge(Remains(storage=storage))
    assert texts(verdict.residue) == ["/swapfile is still swapped to", "/dev/loop0 stays"] and not verdict.dirt


def test_a_disk_that_is_mounted_in_another_namespace_only_is_dirt_once() -> None:
    inside = (*DATA, *mountinfo.parse("41 22 254:16 / /again rw - ext4 /dev/vdb rw"))
    verdict = judge(Remains(elsewhere=(Namespace(812, "pause", inside),)))
    assert texts(verdict.dirt) == [
        "/dev/vdb (ext4) is still mounted at /data in the mount namespace of process 812 (pause), and writable"
    ]
    assert judge(Remains(DATA, (Namespace(812, "pause", inside),))).dirt == judge(Remains(DATA)).dirt


def test_a_disk_that_is_open_but_mounted_nowhere_is_dirt_while_it_can_be_written() -> None:
    seen = Live("vdb", "ext4", frozenset(("254:16",)), True)
    lost = Live("vdc", "ext4", frozenset(("254:32",)), True)
    closed = Live("vdd", "ext4", frozenset(("254:48",)), False)
    verdict = judge(Remains(DATA, live=(seen, lost, closed)))
    assert [left.what for left in verdict.dirt] == ["/data (/dev/vdb, ext4)", "/dev/vdc (ext4)"]
    assert [left.what for left in verdict.residue] == ["/dev/vdd (ext4)"]


def test_the_second_device_of_a_btrfs_that_is_mounted_is_not_lost() -> None:
    pool = frozenset(("vdb", "vdc"))
    mounts = mountinfo.parse("40 22 0:40 / /data ro - btrfs /dev/vdb ro")
    live = (Live("vdb", "btrfs", frozenset(("254:16", "254:32")), True),)
    assert judge(Remains(mounts, storage=Storage(pools=(pool,)), live=live)).cleanliness is Cleanliness.CLEAN


def test_a_disk_whose_unmounting_hangs_is_dirt_and_a_server_that_does_not_let_go_is_not() -> None:
    verdict = judge(Remains(unfinished=(Call("umount", ("/data",)), Call("umount-network", ("/net",)))))
    assert texts(verdict.dirt) == ["unmount /data did not return from the kernel"]
    assert texts(verdict.residue) == ["/net does not let go: what is behind it does not answer"]


def test_what_was_not_written_back_is_dirt_unless_only_a_server_can_have_it() -> None:
    assert judge(Remains(unwritten=UNWRITTEN - 1)).cleanliness is Cleanliness.CLEAN
    assert texts(judge(Remains(unwritten=5 << 20)).dirt) == ["5 MiB not written back"]
    verdict = judge(Remains(NET, unwritten=5 << 20))
    assert not verdict.dirt
    assert "5 MiB for servers that do not answer, and nobody can save them any more" in texts(verdict.residue)
    assert not judge(Remains(unwritten=5 << 20, unfinished=(Call("umount-network", ("/net",)),))).dirt


def test_it_travels_as_json() -> None:
    verdict = Verdict((Left("/data", "is still writable", ("a", "b", "c", "d")),), (Left("/net", "is still mounted"),))
    assert verdict.sentence() == (
        "dirty: /data is still writable, held by a, b, c and 1 more; /net is still mounted"
    )
    assert verdict.as_json() == {
        "cleanliness": "dirty",
        "dirt": [{"what": "/data", "why": "is still writable", "holders": ["a", "b", "c", "d"]}],
        "residue": [{"what": "/net", "why": "is still mounted", "holders": []}],
    }


SAMPLES = (
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n",
    "22 1 254:0 / / ro,relatime - ext4 /dev/vda ro\n23 22 0:21 / /proc rw - proc proc rw\n",
    "44 22 0:46 / /pool ro - btrfs /dev/vdc rw,space_cache\n45 22 0:46 /s /s rw - btrfs /dev/vdc rw\n",
    "45 22 0:47 / /merged rw - overlay overlay rw,lowerdir=/usr\n43 22 0:45 / /net rw - nfs4 server:/export rw\n",
    "46 27 0:48 / /doc rw - fuse.portal portal rw\n33 21 8:1 / /mnt rw - fuseblk /dev/sda1 rw\n",
    "34 21 0:41 / /pool rw - zfs pool/data rw,xattr\n35 21 0:42 / /c rw - bcachefs /dev/sda:/dev/sdb rw\n",
    "47 22 7:0 / /mnt ro - squashfs /dev/loop0 ro\n48 22 254:2 / /usr rw - ext4 /dev/vda2 rw,errors=remount-ro\n",
    "49 22 8:3 / /return\rhere rw - ext4 /dev/sda3 rw\n50 22 8:4 / /feed\x0chere ro - vfat /dev/sda4 rw\n",
    "51 22 0:50 / /v rw - virtiofs share rw\n52 22 0:51 / /w rw - ceph a:6789:/ rw\n53 22 31:0 / /f rw - jffs2 m rw\n",
    "54 22 0:53 / /u rw - ubifs ubi0:root rw\n55 22 0:54 / /t rw - tmpfs tmpfs rw\n",
)


@pytest.mark.parametrize("text", SAMPLES)
def test_the_verdict_and_the_last_act_call_the_same_disks_dirty(text: str) -> None:
    file = Path(__file__).parents[2] / "kexecd" / "jump.py"
    spec = spec_from_file_location("jump_of_the_verdict", file)
    assert spec and spec.loader
    jump = module_from_spec(spec)
    spec.loader.exec_module(jump)
    dirt = {left.what for left in judge(Remains(mountinfo.parse(text))).dirt}
    assert dirt == {f"{point} ({source}, {kind})" for point, source, kind in jump.writable_disks(text)}
