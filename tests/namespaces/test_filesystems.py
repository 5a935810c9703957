# SPDX-License-Identifier: MIT
"""Closing real filesystems on loop devices, in a mount namespace of their own.

Steps see only what a test made (tests.namespaces.disks); the calls are the real ones.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from kexecd.executor import RealClock
from kexecd.kernel import block, mountinfo, proc
from kexecd.model import Cleanliness
from kexecd.teardown.filesystems import ReadOnly, Unmount
from kexecd.teardown.sync import Sync
from kexecd.teardown.verdict import Verify
from kexecd.teardown.workers import ENDED, Call, Workers, left_behind
from tests.namespaces.disks import below, disk, graph_below, image, mount, remains_below, replays
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import command, notes, walk


def no_emergency() -> None:
    raise AssertionError("the emergency remount would reach the machine's own filesystems")


@isolated
def test_nested_bound_and_stacked_mounts_come_down_from_the_leaves_and_clean(tmp_path: Path) -> None:
    outer = disk(tmp_path, "outer", mib=64)
    inner = disk(outer, "inner", mib=24)
    mount(inner, outer / "view", "--bind")
    mount("memory", inner / "memory", "-t", "tmpfs")
    mount("memory-again", inner / "memory", "-t", "tmpfs")
    (inner / "file").write_bytes(os.urandom(1 << 20))
    mounts = below(tmp_path)
    assert len(mounts()) == 5
    result, events, _ = walk(Sync(), Unmount(look=graph_below(tmp_path)), Verify(look=remains_below(tmp_path)))
    assert mounts() == (), notes(events)
    assert result.verdict.cleanliness is Cleanliness.CLEAN
    assert not replays(tmp_path / "outer.img", "ext4")


@isolated
def test_a_mount_that_is_held_stays_is_named_and_makes_the_verdict_dirty(tmp_path: Path) -> None:
    held, free = disk(tmp_path, "held"), disk(tmp_path, "free")
    with (held / "open").open("w", encoding="utf-8"):
        result, events, _ = walk(Unmount(look=graph_below(tmp_path)), Verify(look=remains_below(tmp_path)))
    assert {mount.point for mount in below(tmp_path)()} == {str(held)}
    assert f"could not unmount {held}: device or resource busy, held by " in notes(events)
    assert f"({os.getpid()}, {held}/open)" in notes(events)
    assert str(free) not in notes(events)
    (dirt,) = result.verdict.dirt
    assert str(held) in dirt.what and dirt.why == "is still writable" and f"{held}/open" in dirt.holders[0]


@isolated
def test_what_is_held_by_a_reader_is_made_read_only_and_no_dirt(tmp_path: Path) -> None:
    held = disk(tmp_path, "held")
    (held / "file").write_text("kept", encoding="utf-8")
    steps = (
        Unmount(look=graph_below(tmp_path)),
        ReadOnly(look=remains_below(tmp_path), mounts=below(tmp_path), emergency=no_emergency),
        Verify(look=remains_below(tmp_path)),
    )
    with (held / "file").open(encoding="utf-8"):
        result, events, _ = walk(*steps)
        assert not result.failures and not result.verdict.dirt, notes(events)
        assert any("loop" in left.what and str(held) in left.why for left in result.verdict.residue)
        assert not replays(tmp_path / "held.img", "ext4")


@isolated
def test_at_once_the_others_are_closed_side_by_side_and_only_a_busy_one_is_left_to_the_kernel(tmp_path: Path) -> None:
    """The kernel's emergency remount goes from one to the next, and waits for each."""
    quiet, busy = [disk(tmp_path, f"quiet{number}") for number in range(3)], disk(tmp_path, "busy")
    asked: list[set[str]] = []

    def emergency() -> None:
        asked.append({mount.point for mount in mountinfo.writable_disks(below(tmp_path)())})

    step = ReadOnly(forced=True, look=remains_below(tmp_path), mounts=lambda: (), emergency=emergency)
    with (busy / "open").open("w", encoding="utf-8"):
        result, events, _ = walk(step)
    assert asked == [{str(busy)}]
    assert not result.failures and not notes(events), "that somebody writes is what it is for"
    assert not [point for point in quiet if replays(Path(f"{point}.img"), "ext4")]


@isolated
def test_at_once_one_disk_alone_is_left_to_the_kernel(tmp_path: Path) -> None:
    asked = list[bool]()
    disk(tmp_path, "one")
    walk(
        ReadOnly(forced=True, look=remains_below(tmp_path), mounts=lambda: (), emergency=lambda: asked.append(True)),
    )
    assert asked == [True]


@isolated
def test_an_overlay_goes_before_the_disk_that_its_layers_are_on(tmp_path: Path) -> None:
    layers = disk(tmp_path, "layers")
    for name in ("lower", "upper", "work"):
        (layers / name).mkdir()
    merged = tmp_path / "merged"
    options = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
    mount("overlay", merged, "-t", "overlay", "-o", options)
    (merged / "file").write_text("kept", encoding="utf-8")
    result, events, _ = walk(Unmount(look=graph_below(tmp_path)), Verify(look=remains_below(tmp_path)))
    assert below(tmp_path)() == (), notes(events)
    assert not result.failures and not notes(events)
    assert not replays(tmp_path / "layers.img", "ext4")


@isolated
def test_a_loop_device_is_detached_before_the_disk_that_holds_its_file(tmp_path: Path) -> None:
    outer = disk(tmp_path, "outer")
    command("losetup", "--find", image(outer, "used-by-nobody", mib=1))  # without autoclear, as losetup sets them up
    result, events, _ = walk(Unmount(look=graph_below(tmp_path)), Verify(look=remains_below(tmp_path)))
    assert below(tmp_path)() == (), notes(events)
    assert not [loop for loop in block.loops() if str(tmp_path) in loop.backing]
    assert result.verdict.cleanliness is Cleanliness.CLEAN


@isolated
def test_a_loop_device_that_somebody_has_open_is_not_taken_for_gone(tmp_path: Path) -> None:
    outer = disk(tmp_path, "outer")
    command("losetup", "--find", image(outer, "open", mib=1))
    (loop,) = [loop for loop in block.loops() if loop.backing.startswith(f"{outer}/")]
    with open(loop.device, "rb"):
        with pytest.raises(OSError, match=loop.device) as caught:
            block.detach(loop.device)
        assert caught.value.errno == errno.EBUSY
        _, events, _ = walk(Unmount(look=graph_below(tmp_path)))
        assert f"could not detach {loop.device}: device or resource busy, held by " in notes(events)
        assert f"({os.getpid()}, {loop.device})" in notes(events)
    _, events, _ = walk(Unmount(look=graph_below(tmp_path)))
    assert below(tmp_path)() == (), notes(events)


@isolated
def test_an_ordinary_remount_closes_what_is_not_written_to(tmp_path: Path) -> None:
    point = disk(tmp_path, "disk")
    (point / "file").write_text("kept", encoding="utf-8")
    with (point / "file").open(encoding="utf-8"):
        workers = Workers(1, patience=10, now=time.monotonic)
        workers.submit(Call("remount-ro", (str(point),)))
        while workers.busy:
            for outcome in workers.collect(_readable(workers)):
                assert outcome.errno == 0, outcome.why
        workers.close()
        assert mountinfo.writable_disks(below(tmp_path)()) == ()
    assert not replays(tmp_path / "disk.img", "ext4")


@isolated
def test_1000_mounts_on_a_disk_come_down_within_seconds(tmp_path: Path) -> None:
    outer = disk(tmp_path, "outer")
    for number in range(1000):
        mount("memory", outer / f"{number % 10}" / f"{number}", "-t", "tmpfs")
    steps = Unmount(look=graph_below(tmp_path)), Verify(look=remains_below(tmp_path))
    result, events, seconds = walk(*steps)
    assert below(tmp_path)() == (), notes(events)
    assert result.verdict.cleanliness is Cleanliness.CLEAN
    assert seconds < 5, f"{seconds:.2f} s"


@isolated
def test_a_call_that_never_returns_holds_neither_the_others_nor_us(tmp_path: Path) -> None:
    point = disk(tmp_path, "disk")
    workers = Workers(2, patience=1.0, now=time.monotonic)
    begin = time.monotonic()
    for call in (Call("sleep"), Call("sleep"), Call("umount", (str(point),))):
        workers.submit(call)
    outcomes = []
    while workers.busy:
        outcomes += workers.collect(_readable(workers))
    workers.close()
    assert {(o.call.operation, o.errno) for o in outcomes} == {("sleep", ENDED), ("umount", 0)}
    assert time.monotonic() - begin < 5
    assert below(tmp_path)() == ()
    while left_behind():  # they can be killed, so they are not left
        assert time.monotonic() - begin < 10


@isolated
def test_an_operation_may_have_a_patience_of_its_own(tmp_path: Path) -> None:
    workers = Workers(2, patience=60.0, now=time.monotonic, patiences={"sleep": 0.2})
    begin = time.monotonic()
    workers.submit(Call("sleep"))
    while workers.busy:
        workers.collect(_readable(workers))
    assert time.monotonic() - begin < 5


@isolated
def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    workers = Workers(1, patience=60.0, now=time.monotonic)
    workers.submit(Call("sleep"))
    (child,) = [p for p in proc.scan() if p.ppid == os.getpid()]
    os.kill(child.pid, signal.SIGKILL)
    assert [o.errno for o in workers.collect(_readable(workers))] == [ENDED]
    workers.submit(Call("sync"))
    assert [o.errno for o in workers.collect(_readable(workers))] == [0]
    workers.close()


@isolated
def test_nothing_under_test_can_trigger_the_kernels_emergency_remount() -> None:
    try:
        with open("/proc/sysrq-trigger", "wb", buffering=0) as trigger:
            status = os.fstat(trigger.fileno())
    except FileNotFoundError:  # a kernel without it
        return
    assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (1, 3)  # /dev/null


def _readable(workers: Workers) -> frozenset[int]:
    wait = workers.wait(float("inf"))
    return RealClock().wait(wait.fds, RealClock().now() + min(1.0, max(0.0, wait.until - time.monotonic())))
