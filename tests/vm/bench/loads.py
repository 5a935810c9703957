# SPDX-License-Identifier: MIT
"""The rows of the benchmark: what runs, what is mounted and what is dirty when somebody asks for a restart."""

from __future__ import annotations

from dataclasses import dataclass

from tests.vm.bench import crowd
from tests.vm.bench.recipe import Pid1

READY = "bench: the load is in place"

UNITS = 8
"""How many services the processes of a load belong to."""

FLAT, NESTED = "flat", "nested"

# OpenRC's tools/manymounts.sh has this shape: 16, each with 16 below, each with 16 below. By mount(2) from one process,
# since a mount(8) for each takes minutes when it is emulated.
MOUNT = """\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def mount(point):
    os.mkdir(point)
    if libc.mount(b"many", point.encode(), b"tmpfs", 0, b"size=4k,mode=755"):
        raise OSError(ctypes.get_errno(), point)
    return point
shape, number = sys.argv[1], int(sys.argv[2])
os.mkdir("/srv/many")
if shape == "flat":
    for n in range(number):
        mount(f"/srv/many/{n}")
else:
    for a in range(number):
        one = mount(f"/srv/many/{a}")
        for b in range(number):
            two = mount(f"{one}/{b}")
            for c in range(number):
                mount(f"{two}/{c}")
"""

# PID 1 still works on what it has seen of the mounts for a while; that must not be counted as somebody's way down.
SETTLE = """\
import time
def spent():
    with open("/proc/1/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
before = -100
while (now := spent()) - before > 2:
    before = now
    time.sleep(2)
"""

# Nothing is written back by itself until the contestant has begun: not after a time, not because there is much of it on
# the machine, and not because there is much of it for a disk that has hardly written by now (min_ratio, in percent).
DIRTY = """\
import os
for name, value in (("dirty_writeback_centisecs", 0), ("dirty_background_bytes", 1 << 30), ("dirty_bytes", 2 << 30)):
    with open(f"/proc/sys/vm/{name}", "w") as file:
        file.write(str(value))
for disk in range(DISKS):
    device = os.stat(f"/srv/disk{disk}").st_dev
    with open(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/min_ratio", "w") as file:
        file.write(str(90 // DISKS))
    for number in range(FILES):
        with open(f"/srv/disk{disk}/{number}", "wb") as file:
            file.write(os.urandom(FILE_SIZE))
with open("/proc/meminfo") as file:
    told = dict(line.split(":") for line in file)
dirty = int(told["Dirty"].split()[0]) << 10
assert dirty >= 0.9 * DISKS * FILES * FILE_SIZE, f"only {dirty} bytes are dirty"
"""


@dataclass(frozen=True)
class Disks:
    """Disks of 64 MiB with ext4 and data that is not on them yet.

    iops, rate: what one of them does in a second, requests and bytes. It is a disk with a head, of which a barrier
    follows nearly every request of a sync or an unmount; and QEMU lets a tenth of a second's requests pass at once.
    """

    count: int
    files: int = 16
    file_size: int = 256 << 10
    iops: int = 8
    rate: int = 16 << 20

    def dirty(self) -> str:
        """The program that makes them dirty."""
        sizes = {"DISKS": self.count, "FILES": self.files, "FILE_SIZE": self.file_size}
        return "".join(f"{name} = {value}\n" for name, value in sizes.items()) + DIRTY


@dataclass(frozen=True)
class Load:
    """One row.

    limit: seconds that a contestant gets; who needs more is shown as slower than that.
    parallel: whether there is something to do at once, so that doing one after the other takes twice the time or more.
    orderly: how many times as long `systemctl kexec` is to take.
    """

    name: str
    title: str
    processes: int = 0
    mounts: tuple[str, int] | None = None  # the shape, and how many: all of them, or those of one level
    disks: Disks | None = None
    limit: float = 60.0
    parallel: bool = True
    orderly: float = 2.0

    def goal(self, contestant: str) -> float:
        """How many times as long as kexecd a contestant is to take at least."""
        return self.orderly if contestant == "systemctl kexec" else 2.0 if self.parallel else 1.0

    def setup(self, pid1: Pid1) -> str:
        """The shell script that puts the load in place and says when it is there; crowd and MOUNT lie in /srv."""
        lines = ["set -e", "cd /"]
        if self.processes:
            lines += [_start(f"crowd{number}", pid1) for number in range(UNITS)]
        if self.mounts:
            lines.append(f"python3 /srv/mount.py {self.mounts[0]} {self.mounts[1]}")
        for number in range(self.disks.count if self.disks else 0):
            device, point = f"/dev/vd{chr(ord('c') + number)}", f"/srv/disk{number}"
            lines.append(f"mkdir {point}; mount -o noinit_itable {device} {point}")  # or the kernel writes by itself
        lines += ["python3 /srv/settle.py", "sync", f"echo '{READY}' > /dev/ttyS0"]
        return "\n".join(lines)

    def files(self) -> dict[str, bytes]:
        """What `setup` needs in the guest."""
        needed = {"/srv/mount.py": MOUNT.encode(), "/srv/settle.py": SETTLE.encode()}
        if self.processes:
            needed["/srv/crowd"] = crowd.program(self.processes // UNITS)
        return needed


def _start(name: str, pid1: Pid1) -> str:
    if pid1 is Pid1.SYSTEMD:
        return f"systemd-run --quiet --unit={name} --property=TasksMax=infinity /srv/crowd"
    return "setsid /srv/crowd < /dev/null > /dev/null 2>&1 &"


LOADS = (
    Load("idle", "idle", parallel=False),
    Load("busy", "2,000 processes, 1,000 mounts", 2000, (FLAT, 1000), limit=120.0, orderly=20.0),
    Load("crowded", "5,000 processes, 4,368 mounts", 5000, (NESTED, 16), limit=45.0),
    Load("disks", "16 dirty filesystems", disks=Disks(16), orderly=1.5),
)
