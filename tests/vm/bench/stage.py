# SPDX-License-Identifier: MIT
"""Machines with their load in place: booted and loaded once, and saved; each run goes on from there.

Three snapshots build on each other: the booted machine, and the same with a load in place, are made without the project
and lie in the cache; the third has the project and the new kernel in memory, and lasts for one benchmark.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.vm.bench.contestants import KEXECCTL
from tests.vm.bench.loads import READY, Disks, Load
from tests.vm.bench.recipe import RECIPE, UP, Pid1
from tests.vm.lab import cache
from tests.vm.lab.bootdisk import make_ext4
from tests.vm.lab.delivery import deliver
from tests.vm.lab.guest import Guest
from tests.vm.lab.hardware import Hardware, hardware_for
from tests.vm.lab.image import BARE, GuestImage, Install, build
from tests.vm.lab.machine import overlay
from tests.vm.lab.progress import step
from tests.vm.lab.snapshot import Snapshot, snapshot_key

MEMORY_MIB = 1536  # 5,000 processes take 400
DISK_MIB = 64
SNAPSHOT = "bench"
BOOT_TIMEOUT = 180.0
# `kexecctl load` has the daemon started, and does not wait for it; sysvinit has nobody to have it started by.
WARM = {
    Pid1.SYSTEMD: "systemctl daemon-reload; systemctl start kexecd.service",
    Pid1.SYSVINIT: "setsid -f kexecd < /dev/null > /dev/null 2>&1; until [ -S /run/kexecd/request ]; do sleep 1; done",
}

LOAD_TIMEOUT = 600.0  # seconds, of which PID 1 needs most to look at thousands of mounts
WARM_TIMEOUT = 300.0  # the same; 60 s are not enough for a daemon-reload beside 4,368 mounts on a bad day


@dataclass(frozen=True)
class BenchHardware(Hardware):
    """The lab's machine, with disks that are as slow as disks."""

    slow: Disks | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return super().files + self.slow_files

    @property
    def slow_files(self) -> tuple[str, ...]:
        return tuple(f"slow{number}.qcow2" for number in range(self.slow.count if self.slow else 0))


def prepared(load: Load, pid1: Pid1, workdir: Path, install: Install) -> Snapshot:
    """The machine as a contestant finds it; in `workdir`, and `install` in it. The rest is from the cache, or made."""
    before = _loaded(load, pid1)
    with step(f"{load.name}, {pid1}: project and kernel"), started(before, workdir) as guest:
        deliver(guest, install)
        guest.run(KEXECCTL, "load", timeout=120)
        guest.run("/bin/sh", "-c", WARM[pid1], timeout=WARM_TIMEOUT)
        guest.run("sync", timeout=60)
        if load.disks:
            guest.put("/run/dirty.py", load.disks.dirty().encode())
            guest.run("/usr/bin/python3", "/run/dirty.py", timeout=60)
        return guest.snapshot(SNAPSHOT)


@contextlib.contextmanager
def started(snapshot: Snapshot, workdir: Path) -> Iterator[Guest]:
    """A guest that goes on from `snapshot`."""
    with _at(workdir), Guest.from_snapshot(snapshot, workdir=workdir) as guest:
        yield guest


def _loaded(load: Load, pid1: Pid1) -> Snapshot:
    before = _booted(load, pid1)
    script, files = load.setup(pid1), load.files()
    key = hashlib.sha256(repr((script, sorted(files.items()))).encode()).hexdigest()[:12]
    directory = before.directory.with_name(f"{before.directory.name}-{load.name}-{key}")

    def fill(workdir: Path) -> None:
        with started(before, workdir) as guest:
            for path, data in files.items():
                guest.put(path, data, mode=0o755)
            guest.put("/srv/setup.sh", script.encode())
            mark = guest.mark()
            # Not the agent's child: its control group is not where a server's load is.
            start = ("systemd-run", "--quiet") if pid1 is Pid1.SYSTEMD else ("setsid",)
            guest.spawn(*start, "sh", "/srv/setup.sh")
            guest.wait_for_line(re.escape(READY), mark, LOAD_TIMEOUT)
            guest.snapshot(SNAPSHOT)

    _make(directory, f"{load.name}, {pid1}: the load", fill)
    return dataclasses.replace(before, directory=directory)


def _booted(load: Load, pid1: Pid1) -> Snapshot:
    image = build(RECIPE, BARE)
    hardware = _hardware(image, load, pid1)
    directory = image.directory / f"bench-{snapshot_key(image, hardware)}"

    def fill(workdir: Path) -> None:
        blank = image.directory / "blank.img"
        if hardware.slow and not blank.exists():
            cache.new_file(blank, lambda path: make_ext4(path, DISK_MIB, "work"))
        for name in hardware.slow_files:
            overlay(blank, workdir / name)
        with _at(workdir), Guest.start_on(hardware, image, workdir=workdir) as guest:
            mark = guest.mark()
            if pid1 is Pid1.SYSTEMD:
                guest.wait_ready(BOOT_TIMEOUT)
            else:
                guest.wait_for_line(re.escape(UP), mark, BOOT_TIMEOUT)
            guest.snapshot(SNAPSHOT)

    _make(directory, f"first boot with {pid1}{', 16 more disks' if hardware.slow else ''}", fill)
    return Snapshot(image, hardware, directory, SNAPSHOT)


def _hardware(image: GuestImage, load: Load, pid1: Pid1) -> BenchHardware:
    plain = hardware_for(image, memory_mib=MEMORY_MIB, extra_cmdline=pid1.cmdline)
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    hardware = BenchHardware(**fields, slow=load.disks)
    return dataclasses.replace(hardware, extra_qemu=tuple(_disk_arguments(hardware)))


def _disk_arguments(hardware: BenchHardware) -> Iterator[str]:
    """The file is named from QEMU's directory: a snapshot's disks go on in another one (_at)."""
    for number, file in enumerate(hardware.slow_files):
        assert hardware.slow is not None
        throttle = f"throttling.iops-total={hardware.slow.iops},throttling.bps-total={hardware.slow.rate}"
        yield from ("-drive", f"if=none,id=slow{number},format=qcow2,cache=unsafe,file={file},{throttle}")
        yield from ("-device", f"virtio-blk-pci,drive=slow{number}")


def _at(workdir: Path) -> contextlib.AbstractContextManager[None]:
    return contextlib.chdir(workdir)


def _make(directory: Path, what: str, fill: Callable[[Path], None]) -> None:
    if directory.is_dir():
        return
    with cache.build_lock():
        if not directory.is_dir():
            with step(what), cache.new_directory(directory) as scratch:
                fill(scratch)
