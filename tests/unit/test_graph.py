# SPDX-License-Identifier: MIT
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kexecd.kernel import mountinfo
from kexecd.kernel.block import Loop, Swap
from kexecd.model import Mount
from kexecd.teardown.graph import Graph, build, holder, layers
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


def order(graph: Graph) -> list[str]:
    """The names of the calls, as they are made when one is made at a time."""
    waiting, gone = dict.fromkeys(graph.calls), set[Call]()
    names = []
    while ready := graph.ready(waiting, gone):
        call = ready[0]
        del waiting[call]
        gone.add(call)
        names.append(f"{call.operation} {call.arguments[0]}")
    assert not waiting, f"a circle: {waiting}"
    return names


def test_everything_goes_after_what_stands_on_it() -> None:
    names = order(build(MOUNTS, LOOPS, SWAPS))
    chains = (
        ("umount /merged", "umount /deep", "loop-detach /dev/loop1", "umount /data/image", "loop-detach /dev/loop0"),
        ("loop-detach /dev/loop0", "umount /data"),
        ("umount /merged", "umount /data"),
        ("swapoff /data/swapfile", "umount /data"),
    )
    for chain in chains:
        assert sorted(chain, key=names.index) == list(chain)
    assert "umount /" not in names and not any("vda2" in name for name in names)


def test_what_has_nothing_to_do_with_each_other_goes_at_the_same_time() -> None:
    graph = build(MOUNTS, LOOPS, SWAPS)
    assert {call.arguments[0] for call in graph.ready(graph.calls, set())} == {"/merged", "/view", "/data/swapfile"}


def test_a_path_lies_on_the_deepest_mount_above_it() -> None:
    found = {path: holder(path, MOUNTS) for path in ("/data/image/x", "/data/imagine", "/database", "/merged")}
    assert {path: mount and mount.point for path, mount in found.items()} == {
        "/data/image/x": "/data/image", "/data/imagine": "/data", "/database": "/", "/merged": "/merged",
    }  # fmt: skip


def test_the_layers_of_an_overlay_are_those_with_a_path() -> None:
    overlay = next(mount for mount in MOUNTS if mount.fstype == "overlay")
    assert set(layers(overlay)) == {"/usr", "/deep/l", "/data/u", "/data/w"}


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
    order(build(mounts))
