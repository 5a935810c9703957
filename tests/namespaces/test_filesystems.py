# SPDX-License-Identifier: MIT
"""Closing real filesystems on loop devices, in a mount namespace of their own.

Steps see only the mounts that a test made: `mounts=` narrows what they read, the calls are the real ones.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from kexecd.kernel import block, mountinfo
from kexecd.model import Mount
from kexecd.teardown.filesystems import Sync, Unmount, Verify
from kexecd.teardown.graph import Graph, build
from kexecd.teardown.workers import ENDED, Call, Workers
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import command, disk, notes, walk


def graph_below(directory: Path) -> Callable[[], Graph]:
    """What there is to take away below a directory: its mounts, and the loop devices that stand on files in it."""
    return lambda: build(
        below(directory)(), tuple(loop for loop in block.loops() if loop.backing.startswith(f"{directory}/"))
    )


def below(directory: Path) -> Callable[[], tuple[Mount, ...]]:
    """The mounts of this namespace that are below a directory."""
    return lambda: tuple(mount for mount in mountinfo.read() if mount.point.startswith(f"{directory}/"))


def unclean(image: Path) -> bool:
    """Whether the next mount would replay the journal."""
    shown = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, text=True, check=True, timeout=60).stdout
    return "needs_recovery" in shown


@isolated
def test_nested_bound_and_stacked_mounts_come_down_from_the_leaves_and_clean(tmp_path: Path) -> None:
    outer = disk(tmp_path, "outer")
    inner = disk(outer, "inner", mib=24)
    (outer / "view").mkdir()
    command("mount", "--bind", inner, outer / "view")
    (inner / "memory").mkdir()
    command("mount", "-t", "tmpfs", "memory", inner / "memory")
    command("mount", "-t", "tmpfs", "memory-again", inner / "memory")
    (inner / "file").write_bytes(os.urandom(1 << 20))
    mounts = below(tmp_path)
    assert len(mounts()) == 5
    result, events, _ = walk(Sync(), Unmount(look=graph_below(tmp_path)), Verify(mounts=mounts))
    assert mounts() == (), notes(events)
    assert not result.verdict.dirt
    assert not unclean(tmp_path / "outer.img")


@isolated
def test_a_mount_that_is_held_stays_is_named_and_makes_the_verdict_dirty(tmp_path: Path) -> None:
    held, free = disk(tmp_path, "held"), disk(tmp_path, "free")
    mounts = below(tmp_path)
    with (held / "open").open("w", encoding="utf-8"):
        result, events, _ = walk(Unmount(look=graph_below(tmp_path)), Verify(mounts=mounts))
    assert {mount.point for mount in mounts()} == {str(held)}
    assert f"could not unmount {held}: device or resource busy, held by " in notes(events)
    assert f"({os.getpid()}, {held}/open)" in notes(events)
    assert str(free) not in notes(events)
    assert any(str(held) in line for line in result.verdict.dirt)


@isolated
def test_an_overlay_goes_before_the_disk_that_its_layers_are_on(tmp_path: Path) -> None:
    layers = disk(tmp_path, "layers")
    for name in ("lower", "upper", "work"):
        (layers / name).mkdir()
    merged = tmp_path / "merged"
    merged.mkdir()
    options = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
    command("mount", "-t", "overlay", "-o", options, "overlay", merged)
    (merged / "file").write_text("kept", encoding="utf-8")
    mounts = below(tmp_path)
    result, events, _ = walk(Unmount(look=graph_below(tmp_path)), Verify(mounts=mounts))
    assert mounts() == (), notes(events)
    assert not result.failures and not notes(events)
    assert not unclean(tmp_path / "layers.img")


@isolated
def test_a_loop_device_is_detached_before_the_disk_that_holds_its_file(tmp_path: Path) -> None:
    outer = disk(tmp_path, "outer")
    image = outer / "used-by-nobody.img"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    command("losetup", "--find", image)  # without autoclear, as losetup sets them up
    result, events, _ = walk(Unmount(look=graph_below(tmp_path)), Verify(mounts=below(tmp_path)))
    assert below(tmp_path)() == (), notes(events)
    assert not [loop for loop in block.loops() if str(tmp_path) in loop.backing]
    assert not result.verdict.dirt


@isolated
def test_an_ordinary_remount_closes_what_is_not_written_to(tmp_path: Path) -> None:
    point = disk(tmp_path, "disk")
    (point / "file").write_text("kept", encoding="utf-8")
    with (point / "file").open(encoding="utf-8"):
        workers = Workers(1, patience=10, now=__import__("time").monotonic)
        workers.submit(Call("remount-ro", (str(point),)))
        while workers.busy:
            for outcome in workers.collect(_readable(workers)):
                assert outcome.errno == 0, outcome.why
        workers.close()
        assert mountinfo.writable_disks(below(tmp_path)()) == ()
    assert not unclean(tmp_path / "disk.img")


@isolated
def test_a_call_that_never_returns_holds_neither_the_others_nor_us(tmp_path: Path) -> None:
    import time

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


@isolated
def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    import signal
    import time

    from kexecd.kernel import proc

    workers = Workers(1, patience=60.0, now=time.monotonic)
    workers.submit(Call("sleep"))
    (child,) = [p for p in proc.scan() if p.ppid == os.getpid()]
    os.kill(child.pid, signal.SIGKILL)
    assert [o.errno for o in workers.collect(_readable(workers))] == [ENDED]
    workers.submit(Call("sync"))
    assert [o.errno for o in workers.collect(_readable(workers))] == [0]
    workers.close()


def _readable(workers: Workers) -> frozenset[int]:
    from kexecd.executor import RealClock

    return RealClock().wait(workers.wait(float("inf")).fds, RealClock().now() + 1.0)
