# SPDX-License-Identifier: MIT
"""What does not want to go: held, mounted elsewhere, served by a daemon or a disk that does not answer.

The daemons are real FUSE daemons that were stopped, and the disk is a file that such a daemon serves.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from kexecd.kernel import block, mountinfo, namespaces, proc
from kexecd.kernel.mountinfo import Kind
from kexecd.model import Cleanliness, Mount
from kexecd.teardown import filesystems, holders, sync
from kexecd.teardown.filesystems import ReadOnly, Unmount
from kexecd.teardown.graph import build_from
from kexecd.teardown.holders import Place
from kexecd.teardown.sync import Sync
from kexecd.teardown.verdict import Verify
from kexecd.teardown.workers import left_behind
from tests.namespaces.disks import (
    Fuse,
    below,
    disk,
    graph_below,
    in_namespace,
    libc,
    mount,
    namespace_of,
    others_below,
    remains_below,
    replays,
    storage,
)
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import command, eventually, notes, walk


def refused() -> None:
    """In the place of the emergency remount, which would reach the machine's own filesystems."""


@isolated
def test_a_file_that_is_only_mapped_is_found_by_the_process_that_maps_it(tmp_path: Path) -> None:
    point = disk(tmp_path, "disk")
    (point / "mapped").write_bytes(bytes(8192))
    fd = os.open(point / "mapped", os.O_RDWR)
    # By hand: Python's own keeps a descriptor.
    assert libc.mmap(*map(ctypes.c_long, (0, 8192, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0))) != -1
    os.close(fd)
    for device in ("", below(tmp_path)()[0].device):
        (holder,) = [held for held in holders.find([Place(str(point), device)]) if held.pid]
        assert (holder.pid, holder.how, holder.path) == (os.getpid(), "mapped", f"{point}/mapped")
    _, events, _ = walk(Unmount(look=graph_below(tmp_path)))
    assert f"could not unmount {point}: device or resource busy, held by " in notes(events)


@isolated
def test_a_deleted_file_and_a_directory_and_a_program_are_named(tmp_path: Path) -> None:
    point = disk(tmp_path, "disk", mib=64)
    with (point / "deleted").open("w", encoding="utf-8") as file:
        (point / "deleted").unlink()
        assert [(held.how, held.path) for held in holders.find([Place(str(point))]) if held.pid] == [
            ("open", f"{point}/deleted (deleted)")
        ]
        file.close()
    (point / "sleep").write_bytes(Path("/bin/sleep").read_bytes())
    (point / "sleep").chmod(0o755)
    program = subprocess.Popen([point / "sleep", "1000"], cwd="/")
    directory = subprocess.Popen(["/bin/sleep", "1000"], cwd=point)
    try:
        eventually(lambda: len([h for h in holders.find([Place(str(point))]) if h.pid]) == 2)
        found = {(held.pid, held.how) for held in holders.find([Place(str(point))]) if held.pid}
        assert found == {(program.pid, "exe"), (directory.pid, "cwd")}
    finally:
        program.kill()
        directory.kill()


@isolated
def test_a_filesystem_that_lives_on_in_another_namespace_is_unmounted_there(tmp_path: Path) -> None:
    point = disk(tmp_path, "disk")
    (point / "file").write_bytes(os.urandom(1 << 20))
    mount("memory", point / "memory", "-t", "tmpfs")
    (point / "memory" / "file").write_bytes(b"x")
    pid, end = in_namespace()
    begin = time.monotonic()
    result, events, _ = walk(Sync(), Unmount(look=graph_below(tmp_path)), Verify(look=remains_below(tmp_path)))
    seconds = time.monotonic() - begin
    assert not [m for m in namespace_of(pid).mounts if m.point.startswith(f"{tmp_path}/")], notes(events)
    assert not [loop for loop in block.loops() if loop.backing.startswith(f"{tmp_path}/")]
    assert not replays(tmp_path / "disk.img", "ext4")
    assert result.verdict.cleanliness is Cleanliness.CLEAN and not notes(events), notes(events)
    assert seconds < 2
    end()


@isolated
def test_a_namespace_that_only_a_file_pins_is_let_go(tmp_path: Path) -> None:
    pins = mount("memory", tmp_path.parent / f"pins-of-{tmp_path.name}", "-t", "tmpfs", "--make-private")
    point = disk(tmp_path, "disk")
    (tmp_path / "pin").touch()
    for processor in os.sched_getaffinity(0):
        pid, end = in_namespace(processor=processor)
        # Refused for a namespace with a lower number than ours, and each processor has numbers of its own to give.
        pinned = not libc.mount(
            f"/proc/{pid}/ns/mnt".encode(), os.fsencode(tmp_path / "pin"), None, ctypes.c_ulong(0x1000), None
        )
        end()  # no process is in it any more
        if pinned:
            break
    assert [m for m in below(tmp_path)() if m.fstype == "nsfs"]
    command("umount", pins)
    result, events, _ = walk(Unmount(look=graph_below(tmp_path)), Verify(look=remains_below(tmp_path)))
    assert below(tmp_path)() == (), notes(events)
    assert not [loop for loop in block.loops() if loop.backing.startswith(f"{tmp_path}/")]
    assert not replays(tmp_path / "disk.img", "ext4") and point.exists()
    assert result.verdict.cleanliness is Cleanliness.CLEAN


@isolated
def test_what_is_held_in_another_namespace_is_named_and_made_read_only_there(tmp_path: Path) -> None:
    point = disk(tmp_path, "disk")
    (point / "file").write_bytes(b"kept")
    pid, end = in_namespace(lambda: reader_of(point / "file"))
    mounts, others = below(tmp_path), others_below(tmp_path)
    steps = (
        Unmount(look=graph_below(tmp_path), others=others),
        Verify(look=remains_below(tmp_path)),
        ReadOnly(look=remains_below(tmp_path), mounts=mounts, emergency=refused),
    )
    result, events, _ = walk(*steps)
    inside = f"still mounted at {point} in the mount namespace of process {pid} "
    assert mounts() == () and inside in notes(events)
    (dirt,) = result.verdict.dirt
    assert inside in dirt.why and dirt.why.endswith(", and writable")
    assert not [m for m in namespace_of(pid).mounts if m.point == str(point) and m.writable], notes(events)
    result, _, _ = walk(Verify(look=remains_below(tmp_path)))
    assert not result.verdict.dirt
    assert not replays(tmp_path / "disk.img", "ext4")
    end()


@isolated
def test_a_fuse_filesystem_whose_daemon_is_stopped_comes_down_within_seconds(tmp_path: Path) -> None:
    mount("none", Path("/sys/fs/fuse/connections"), "-t", "fusectl")
    outer = disk(tmp_path, "outer")
    fuse = Fuse(outer / "fuse")
    assert (fuse.point / "disk").stat().st_size == 16 << 20
    fuse.signal(signal.SIGSTOP)
    stuck = subprocess.Popen(["stat", fuse.point / "disk"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: proc.waits_on(stuck.pid) == "request_wait_answer")  # fs/fuse/dev.c
    result, events, seconds = walk(Unmount(look=graph_below(tmp_path)), Verify(look=remains_below(tmp_path)))
    assert below(tmp_path)() == (), notes(events)
    assert not result.verdict.dirt
    assert stuck.wait(10) != 0  # its request has failed
    assert seconds < 5, f"{seconds:.2f} s: {notes(events)}"
    assert not replays(tmp_path / "outer.img", "ext4")
    fuse.signal(signal.SIGKILL)


@isolated
def test_what_is_mounted_on_a_dead_server_goes_with_it(tmp_path: Path) -> None:
    mount("none", Path("/sys/fs/fuse/connections"), "-t", "fusectl")
    outer = disk(tmp_path, "outer")
    fuse = Fuse(outer / "fuse")
    assert libc.mount(b"over", os.fsencode(fuse.point / "disk"), None, ctypes.c_ulong(0x1000), None) == -1  # no file
    other = disk(tmp_path, "other")
    (other / "file").touch()
    mount_file(other / "file", fuse.point / "disk")  # a bind of a file, over a path that needs the daemon
    fuse.signal(signal.SIGSTOP)
    result, events, seconds = walk(
        Unmount(look=graph_below(tmp_path)), Verify(look=remains_below(tmp_path)), within=15.0
    )
    assert below(tmp_path)() == (), notes(events)
    assert not replays(tmp_path / "outer.img", "ext4") and not replays(tmp_path / "other.img", "ext4")
    assert seconds < 11, f"{seconds:.2f} s: {notes(events)}"
    fuse.signal(signal.SIGKILL)


@isolated
def test_a_dead_disk_keeps_no_other_one_from_being_written_back(tmp_path: Path) -> None:
    sync.WINDOW, real = 1.0, sync.WINDOW
    healthy = [disk(tmp_path, f"healthy{number}") for number in range(3)]
    fuse = Fuse(tmp_path / "fuse")
    command("mke2fs", "-q", "-t", "ext4", fuse.point / "disk")
    dead = mount(fuse.point / "disk", tmp_path / "dead", "-o", "loop")
    for point in (dead, *healthy):
        (point / "file").write_bytes(os.urandom(2 << 20))
    fuse.signal(signal.SIGSTOP)
    try:
        disks = [m for m in below(tmp_path)() if mountinfo.kind(m) is Kind.DISK]
        result, events, seconds = walk(Sync(mounts=lambda: tuple(disks)))
        assert any(f"none in 1 s: {dead}" in failure for failure in result.failures), result.failures
        assert seconds < 5, f"{seconds:.2f} s"
        for point in healthy:  # on their disks, without anything else having been done to them
            with open(f"{point}.img", "rb") as file:
                assert (point / "file").read_bytes()[: 64 << 10] in file.read()
        early, _, seconds = walk(Sync(early=True, mounts=lambda: tuple(disks)), within=1.0)
        assert not early.failures and seconds < 2
    finally:
        fuse.signal(signal.SIGKILL)  # its requests fail, and whoever waits for them goes on
        sync.WINDOW = real


@isolated
def test_a_disk_that_has_written_everything_is_closed_while_a_slower_one_still_writes(tmp_path: Path) -> None:
    sync.WINDOW, real = 1.0, sync.WINDOW
    outer = disk(tmp_path, "outer")
    (outer / "inner").mkdir()
    other = disk(tmp_path, "other")
    command("umount", other)
    inner = mount(f"{other}.img", outer / "inner", "-o", "loop")
    fuse = Fuse(tmp_path / "fuse")
    command("mke2fs", "-q", "-t", "ext4", fuse.point / "disk")
    dead = mount(fuse.point / "disk", tmp_path / "dead", "-o", "loop")
    for point in (dead, outer, inner):
        (point / "file").write_bytes(os.urandom(1 << 20))
    fuse.signal(signal.SIGSTOP)
    try:
        disks = [m for m in below(tmp_path)() if mountinfo.kind(m) is Kind.DISK]
        walk(Sync(mounts=lambda: tuple(disks), ahead=graph_below(tmp_path)))
        left = {m.point for m in below(tmp_path)()}
        assert str(inner) not in left, "nothing is mounted on it"
        assert {str(outer), str(dead)} <= left, "one has to go after another one, and one is not written"
    finally:
        fuse.signal(signal.SIGKILL)
        sync.WINDOW = real


@isolated
def test_what_is_no_disk_of_ours_and_does_not_answer_costs_the_sync_two_seconds(tmp_path: Path) -> None:
    """To sync(2) a filesystem that nobody told us of is like one of a server that is gone: it waits for it."""
    healthy = disk(tmp_path, "healthy")
    fuse = Fuse(tmp_path / "fuse")
    command("mke2fs", "-q", "-t", "ext4", fuse.point / "disk")
    dead = mount(fuse.point / "disk", tmp_path / "dead", "-o", "loop")
    for point in (dead, healthy):
        (point / "file").write_bytes(os.urandom(1 << 20))
    ours = tuple(m for m in below(tmp_path)() if m.point == str(healthy))
    fuse.signal(signal.SIGSTOP)
    try:
        result, events, seconds = walk(Sync(mounts=lambda: ours, unwritten=lambda: 5 << 20))
        assert not result.failures
        assert "5 MiB were not written back by servers that do not answer, going on without" in notes(events)
        assert sync.REST_WINDOW <= seconds < sync.REST_WINDOW + 1.5, f"{seconds:.2f} s"
        _, _, seconds = walk(Sync(early=True, mounts=lambda: ours))
        assert seconds < 1, f"{seconds:.2f} s"
    finally:
        fuse.signal(signal.SIGKILL)


@isolated
def test_a_verdict_that_is_dirty_travels_as_json(tmp_path: Path) -> None:
    point = disk(tmp_path, "disk")
    with (point / "open").open("w", encoding="utf-8"):
        result, _, _ = walk(Verify(look=remains_below(tmp_path)))
    told = result.verdict.as_json()
    assert told["cleanliness"] == "dirty"
    (dirt,) = told["dirt"] if isinstance(told["dirt"], list) else []
    assert dirt["why"] == "is still writable" and f"{point}/open" in dirt["holders"][0]
    assert f"{point} " in result.verdict.sentence() and " is still writable, held by " in result.verdict.sentence()


def test_this_processes_own_namespace_is_none_of_the_others() -> None:
    own = os.readlink("/proc/self/ns/mnt")
    assert all(os.readlink(namespace.door) != own for namespace in namespaces.others())


def mount_file(what: str | Path, point: Path) -> None:
    command("mount", "--bind", what, point)


def reader_of(path: Path) -> None:
    os.open(path, os.O_RDONLY)


@isolated
def test_a_disk_that_dies_while_it_is_unmounted_is_left_behind_and_dirty(tmp_path: Path) -> None:
    filesystems.PATIENCE, real = 1.0, filesystems.PATIENCE
    healthy = disk(tmp_path, "healthy")
    fuse = Fuse(tmp_path / "fuse")
    command("mke2fs", "-q", "-t", "ext4", fuse.point / "disk")
    dead = mount(fuse.point / "disk", tmp_path / "dead", "-o", "loop")
    for point in (dead, healthy):
        (point / "file").write_bytes(os.urandom(1 << 20))
    fuse.signal(signal.SIGSTOP)
    try:
        steps = (
            Unmount(look=lambda: build_from(disks_of(tmp_path), storage(tmp_path))),
            Verify(look=lambda: replace(remains_below(tmp_path)(), unfinished=left_behind(), mounts=())),
        )
        result, events, seconds = walk(*steps)
        assert f"left behind, hanging in the kernel: unmount {dead}" in notes(events)
        assert [left.what for left in result.verdict.dirt] == [f"unmount {dead}"], result.verdict.sentence()
        assert not replays(tmp_path / "healthy.img", "ext4")
        assert seconds < 5, f"{seconds:.2f} s"
    finally:
        fuse.signal(signal.SIGKILL)
        filesystems.PATIENCE = real
    eventually(lambda: not left_behind())  # its requests have failed, and so the umount has ended


def disks_of(directory: Path) -> tuple[Mount, ...]:
    """The disks, and not the FUSE filesystem that one of them is a file of."""
    return tuple(m for m in below(directory)() if mountinfo.kind(m) is Kind.DISK)


@isolated
def test_a_disk_that_lost_what_was_written_says_so(tmp_path: Path) -> None:
    fuse = Fuse(tmp_path / "fuse")
    command("mke2fs", "-q", "-t", "ext4", fuse.point / "disk")
    lost = mount(fuse.point / "disk", tmp_path / "lost", "-o", "loop")
    (lost / "file").write_bytes(os.urandom(1 << 20))
    fuse.signal(signal.SIGKILL)
    os.waitpid(fuse.pid, 0)  # and with it the disk
    _, events, _ = walk(Sync(mounts=lambda: disks_of(tmp_path)))
    assert f"could not write back {lost}: input/output error" in notes(events)
