# SPDX-License-Identifier: MIT
from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexecd.kernel import mountinfo
from kexecd.kernel.block import Loop, Stacked, Swap
from kexecd.model import Mount
from kexecd.teardown.graph import Graph, Tree, Walk, build, layers
from kexecd.teardown.workers import Call

TEXT = r"""
22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 254:16 / /data rw - ext4 /dev/vdb rw
41 40 7:0 / /data/image rw - ext4 /dev/loop0 rw
42 22 7:1 / /deep rw - xfs /dev/loop1 rw
45 22 0:47 / /merged rw - overlay overlay rw,lowerdir=/usr:/deep/l,upperdir=/data/u,workdir=/data/w
46 22 254:16 /sub /view rw - ext4 /dev/vdb rw
"""
MOUNTS = mountinfo.parse(TEXT)
LOOPS = (Loop("loop0", "/data/disk.img", True), Loop("loop1", "/data/image/inner.img", False))
SWAPS = (Swap("/data/swapfile", True), Swap("/dev/vda2", False))


def names(graph: Graph) -> list[str]:
    """The calls in words, as they are made when one is made at a time."""
    calls = graph.order()
    assert len(calls) == len(graph.calls), f"a circle: {set(graph.calls) - set(calls)}"
    return [f"{call.operation} {call.arguments[0]}" for call in calls]


def parse(text: str) -> tuple[Mount, ...]:
    return mountinfo.parse(text)


def in_order(found: list[str], *chain: str) -> bool:
    return sorted(chain, key=found.index) == list(chain)


def test_everything_goes_after_what_stands_on_it() -> None:
    found = names(build(MOUNTS, LOOPS, SWAPS))
    assert in_order(
        found, "umount /merged", "umount /deep", "loop-detach /dev/loop1", "umount /data/image",
        "loop-detach /dev/loop0", "umount /data",
    )  # fmt: skip
    assert in_order(found, "umount /merged", "umount /data")
    assert in_order(found, "swapoff /data/swapfile", "umount /data")
    assert "umount /" not in found and not any("vda2" in name for name in found)


def test_what_has_nothing_to_do_with_each_other_goes_at_the_same_time() -> None:
    first = Walk(build(MOUNTS, LOOPS, SWAPS)).start()
    assert {call.arguments[0] for call in first} == {"/merged", "/view", "/data/swapfile"}


def test_a_path_lies_on_the_deepest_mount_above_it() -> None:
    tree = Tree(MOUNTS)
    found = {path: tree.holder(path) for path in ("/data/image/x", "/data/imagine", "/database", "/merged", "/")}
    assert {path: mount and mount.point for path, mount in found.items()} == {
        "/data/image/x": "/data/image", "/data/imagine": "/data", "/database": "/", "/merged": "/merged", "/": "/",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("lowerdir=/usr:/deep/l,upperdir=/data/u,workdir=/data/w", {"/usr", "/deep/l", "/data/u", "/data/w"}),
        (r"lowerdir=/a\134:b:/c,upperdir=/x:y", {"/a:b", "/c", "/x:y"}),  # as the kernel shows a\:b
        (r"lowerdir=/with\040blank:/with\054comma", {"/with blank", "/with,comma"}),
        ("lowerdir+=/a:b,lowerdir+=/c,datadir+=/d", {"/a:b", "/c", "/d"}),  # Linux 6.5 and on
        ("lowerdir=/a:/b::/data-only", {"/a", "/b", "/data-only"}),
        ("lowerdir=relative:l/ABC", set()),
    ],
)
def test_the_layers_of_an_overlay_are_its_directories_whatever_their_names(options: str, expected: set[str]) -> None:
    (overlay,) = parse(f"45 22 0:47 / /merged rw - overlay overlay rw,{options}")
    assert set(layers(overlay)) == expected


def test_an_encrypted_directory_goes_before_the_disk_that_its_files_are_on() -> None:
    text = """
22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 254:16 / /data rw - ext4 /dev/vdb rw
41 22 0:50 / /home/me rw - ecryptfs /data/.me rw
"""
    assert in_order(names(build(parse(text))), "umount /home/me", "umount /data")


def test_a_hidden_mount_waits_for_what_hides_it_and_so_does_all_that_is_on_it() -> None:
    text = """
22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 254:16 / /x/y rw - ext4 /dev/vdb rw
41 40 254:32 / /x/y/z rw - ext4 /dev/vdc rw
42 22 0:50 / /x rw - tmpfs memory rw
43 22 0:51 / /x-other rw - tmpfs memory rw
"""
    found = names(build(parse(text)))
    assert in_order(found, "umount-memory /x", "umount /x/y/z", "umount /x/y")
    assert not any("other" in name for name in found)


def test_a_mount_may_come_before_its_parent_in_the_file() -> None:
    text = """
41 40 254:32 / /data/deep rw - ext4 /dev/vdc rw
22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 254:16 / /data rw - ext4 /dev/vdb rw
"""
    assert names(build(parse(text))) == ["umount /data/deep", "umount /data"]


def stack(
    name: str, number: str, *below: str, label: str = "", state: str = "", metadata: str = ""
) -> Stacked:  # fmt: skip
    return Stacked(name, frozenset((name,)), frozenset((number,)), frozenset(below), label, "", state, metadata)


def test_a_volume_on_an_encrypted_array_on_loop_devices_on_a_file_goes_one_after_the_other() -> None:
    text = """
22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 254:16 / /data rw - ext4 /dev/vdb rw
41 22 253:1 / /srv rw - xfs /dev/mapper/vg-srv rw
"""
    loops = (Loop("loop0", "/data/a.img", False), Loop("loop1", "/data/b.img", False))
    stacked = (
        stack("md127", "9:127", "loop0", "loop1", state="clean"),
        stack("dm-0", "253:0", "md127", label="luks-srv"),
        stack("dm-1", "253:1", "dm-0", label="vg-srv"),
    )
    graph = build(parse(text), loops, stacked=stacked)
    found = names(graph)
    for loop in ("loop0", "loop1"):
        assert in_order(
            found, "umount /srv", "dm-remove vg-srv", "dm-remove luks-srv", "md-stop /dev/md127",
            f"loop-detach /dev/{loop}", "umount /data",
        )  # fmt: skip
    assert not graph.kept


def test_what_the_root_or_swap_is_on_is_never_taken_away_however_deep() -> None:
    text = """
22 1 253:1 / / rw - ext4 /dev/mapper/vg-root rw
40 22 253:2 / /srv rw - ext4 /dev/mapper/vg-srv rw
"""
    stacked = (
        stack("md0", "9:0", "sda1", "sdb1", state="active"),
        stack("dm-0", "253:0", "md0", label="luks"),
        stack("dm-1", "253:1", "dm-0", label="vg-root"),
        stack("dm-2", "253:2", "dm-0", label="vg-srv"),
        stack("dm-3", "253:3", "sdc1", label="cryptswap"),
    )
    swaps = (Swap("/dev/dm-3", False),)
    graph = build(parse(text), (), swaps, stacked)
    assert names(graph) == ["umount /srv", "dm-remove vg-srv"]
    assert {device.name for device in graph.kept} == {"md0", "dm-0", "dm-1", "dm-3"}


def test_a_root_in_a_file_keeps_the_disk_that_the_file_is_on_and_what_that_is_mounted_on() -> None:
    text = """
22 1 7:0 / / rw - ext4 /dev/loop0 rw
40 22 254:16 / /host rw - ext4 /dev/vda rw
41 22 254:32 / /data rw - ext4 /dev/vdb rw
"""
    loops = (Loop("loop0", "/host/root.img", True, frozenset(("loop0",)), frozenset(("7:0",))),)
    assert names(build(parse(text), loops)) == ["umount /data"]


def test_the_layers_of_a_root_that_is_an_overlay_stay_to_be_made_read_only() -> None:
    text = """
22 1 0:40 / / rw - overlay overlay rw,lowerdir=/media/ro,upperdir=/media/rw/u,workdir=/media/rw/w
40 22 254:0 / /media/ro ro - squashfs /dev/vda ro
41 22 254:16 / /media/rw rw - ext4 /dev/vdb rw
42 22 254:32 / /data rw - ext4 /dev/vdc rw
"""
    assert names(build(parse(text))) == ["umount /data"]


def test_a_btrfs_holds_all_of_its_devices_until_the_last_of_its_mounts_is_gone() -> None:
    text = """
22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 0:40 /home /home rw - btrfs /dev/mapper/one rw,subvol=/home
41 22 0:40 /srv /srv rw - btrfs /dev/mapper/one rw,subvol=/srv
"""
    stacked = (stack("dm-0", "253:0", "sda", label="one"), stack("dm-1", "253:1", "sdb", label="two"))
    found = names(build(parse(text), (), (), stacked, (frozenset(("dm-0", "dm-1")),)))
    for point in ("/home", "/srv"):
        assert in_order(found, f"umount {point}", "dm-remove one")
        assert in_order(found, f"umount {point}", "dm-remove two")


def test_a_journal_on_a_device_of_its_own_is_closed_after_its_filesystem() -> None:
    text = """
22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 254:16 / /srv rw - xfs /dev/vdb rw,logdev=/dev/mapper/log
"""
    found = names(build(parse(text), (), (), (stack("dm-0", "253:0", "sda", label="log"),)))
    assert found == ["umount /srv", "dm-remove log"]


def test_a_container_of_arrays_is_left_alone_and_its_arrays_are_not() -> None:
    stacked = (
        stack("md127", "9:127", "sda", "sdb", state="inactive", metadata="external:imsm"),
        stack("md126", "9:126", "sda", "sdb", state="clean", metadata="external:/md127/0"),
    )
    assert names(build((), (), (), stacked)) == ["md-stop /dev/md126"]


MEMORY = """
22 1 254:0 / / rw - ext4 /dev/vda rw
27 22 0:24 / /run rw - tmpfs tmpfs rw
28 27 0:25 / /run/user/1000 rw - tmpfs tmpfs rw
29 22 0:26 / /dev/shm rw - tmpfs tmpfs rw
30 22 0:27 / /tmp rw - tmpfs tmpfs rw
31 30 0:28 / /tmp/deep rw - tmpfs tmpfs rw
"""


def test_memory_that_may_be_in_a_swap_file_is_dropped_before_that_is_read_back() -> None:
    graph = build(parse(MEMORY), (), (Swap("/swapfile", True, used=4096),))
    assert names(graph) == ["umount-memory /tmp/deep", "umount-memory /tmp", "swapoff /swapfile"]


@pytest.mark.parametrize("swap", [Swap("/swapfile", True, used=0), Swap("/dev/zram0", False, 1 << 20), None])
def test_memory_is_nobodys_business_while_no_swap_file_is_in_use(swap: Swap | None) -> None:
    graph = build(parse(MEMORY), (), (swap,) if swap else ())
    assert [name for name in names(graph) if "umount" in name] == []


def test_a_swap_file_is_taken_off_even_if_a_tmpfs_did_not_go() -> None:
    walk = Walk(build(parse(MEMORY), (), (Swap("/swapfile", True, used=4096),)))
    (deep,) = walk.start()
    assert [call.operation for call in walk.rest([deep])] == ["swapoff"]
    assert walk.rest([deep]) == []  # /tmp still carries what did not go


def test_a_circle_is_tried_all_the_same_but_nothing_below_what_is_stuck() -> None:
    a, b, stuck, below = (Call("umount", (name,)) for name in ("a", "b", "stuck", "below"))
    before = {a: frozenset((b,)), b: frozenset((a,)), stuck: frozenset[Call](), below: frozenset((stuck,))}
    walk = Walk(Graph(before))
    assert walk.start() == [stuck]
    assert set(walk.rest([stuck])) == {a, b}
    assert walk.rest([stuck]) == []


def test_what_hides_a_loop_device_and_its_file_goes_first_though_the_files_path_leads_into_it() -> None:
    text = """
22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 7:0 / /x/y rw - ext4 /dev/loop0 rw
41 22 0:50 / /x rw - tmpfs memory rw
42 22 7:1 / /other rw - ext4 /dev/loop1 rw
"""
    loops = tuple(
        Loop(f"loop{number}", f"/x/{number}.img", False, frozenset((f"loop{number}",)), frozenset((f"7:{number}",)))
        for number in (0, 1)
    )
    walk = Walk(build(parse(text), loops))
    done, todo = list[str](), walk.start()
    while todo := todo or walk.rest([]):
        assert len(todo) == 1, "a path that is looked up beside it keeps what it leads through busy"
        done += [f"{call.operation} {call.subject}" for call in todo]
        todo = [other for call in todo for other in walk.gone(call)]
    assert done == [
        "umount /other", "loop-detach /dev/loop1", "umount-memory /x", "umount /x/y", "loop-detach /dev/loop0"
    ]  # fmt: skip


def test_what_pins_another_mount_namespace_goes_and_what_pins_a_network_one_stays() -> None:
    text = """
22 1 254:0 / / rw - ext4 /dev/vda rw
27 22 0:24 / /run rw - tmpfs tmpfs rw
28 27 0:4 mnt:[4026532400] /run/snapd/ns/a.mnt rw - nsfs nsfs rw
29 27 0:4 net:[4026532401] /run/netns/b rw - nsfs nsfs rw
"""
    assert names(build(parse(text))) == ["umount-memory /run/snapd/ns/a.mnt"]


def test_what_is_reached_through_a_server_gets_little_patience() -> None:
    text = """
22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 0:40 / /net rw - nfs4 server:/ rw
41 40 254:16 / /net/disk rw - ext4 /dev/vdb rw
42 41 254:32 / /net/disk/more rw - ext4 /dev/vdc rw
"""
    assert names(build(parse(text))) == [
        "umount-beyond /net/disk/more", "umount-beyond /net/disk", "umount-network /net",
    ]  # fmt: skip


def test_only_a_part_of_it_may_be_wanted() -> None:
    graph = build(MOUNTS, LOOPS, SWAPS)
    wanted = [call for call in graph.calls if call.arguments[0] == "/data/image"]
    found = names(graph.only(wanted))
    assert found[-1] == "umount /data/image" and "umount /merged" in found and "umount /data" not in found


def many(fstype: str) -> str:
    """16 + 256 + 4096 nested mounts, the shape that OpenRC's developers try their unmounting with."""
    lines, number = ["22 1 254:0 / / rw - ext4 /dev/vda rw"], 100
    for a in range(16):
        number += 1
        top = number
        lines.append(f"{top} 22 8:{top} / /m/{a} rw,relatime shared:{top} - {fstype} x rw,size=10k")
        for b in range(16):
            number += 1
            middle = number
            lines.append(f"{middle} {top} 8:{middle} / /m/{a}/{b} rw,relatime shared:{middle} - {fstype} x rw")
            for c in range(16):
                number += 1
                lines.append(f"{number} {middle} 8:{number} / /m/{a}/{b}/{c} rw,relatime - {fstype} x rw")
    return "\n".join(lines)


@pytest.mark.parametrize(("fstype", "calls"), [("tmpfs", 0), ("ext4", 4368)])
def test_4368_mounts_take_a_tenth_of_a_second_of_cpu_at_most(fstype: str, calls: int) -> None:
    text = many(fstype)
    best = 1.0
    for _ in range(3):
        begin = time.process_time()
        mounts = mountinfo.parse(text)
        parsed = time.process_time()
        graph = build(mounts)
        best = min(best, max(parsed - begin, time.process_time() - parsed))
    assert len(mounts) == 4369 and len(graph.calls) == calls
    assert best < 0.1, f"{best:.3f} s"
    assert len(graph.order()) == calls


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from(["/", "/a", "/a/b", "/c", "/usr", "/a/b/c"]), st.booleans()),
        max_size=20,
    )
)
def test_whatever_is_mounted_wherever_there_is_no_circle(rows: list[tuple[int, str, bool]]) -> None:
    mounts = tuple(
        Mount(number + 100, parent + 100, f"8:{number}", "/", point, frozenset(), "ext4" if disk else "tmpfs", "x",
              frozenset(("rw",)))  # fmt: skip
        for number, (parent, point, disk) in enumerate(rows)
        if parent < number  # the kernel lists a mount after its parent
    )
    names(build(mounts))
