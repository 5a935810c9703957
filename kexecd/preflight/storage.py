# SPDX-License-Identifier: MIT
"""What is on the disks, or on its way there, that a restart must not cut short."""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Iterator

from kexecd.kernel import mountinfo, sysfs
from kexecd.kernel.files import join_root, resolve
from kexecd.kernel.mountinfo import Kind
from kexecd.model import Mount, Process, Way
from kexecd.preflight.facts import EFI_SYSTEMD, Facts
from kexecd.preflight.finding import Flaw, Severity
from kexecd.preflight.root import block_name

RECORD_NEEDS = 64 << 10
"""Bytes: the record of a restart takes less than a block of any filesystem, and a journal wants its share."""

READING = 2.0
"""Seconds for a disk to answer."""

MUCH_UNWRITTEN = 1 << 30
"""Bytes: 5 s and more for most disks, out of the deadline of --fast."""

WORKING = frozenset(
    "apk apt apt-get aptitude dnf dnf5 dpkg emerge microdnf pacman rpm rpm-ostree xbps-install yum zypper"
    " dracut genkernel grub-mkconfig installkernel kernel-install mkinitcpio mkinitramfs ukify update-initramf".split()
)
"""Names of programs that install packages or make what boots, as the kernel keeps them (15 characters)."""

LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/usr/lib/sysimage/rpm/.rpm.lock",
    "/var/lib/rpm/.rpm.lock",
    "/run/zypp.pid",
)
APK_LOCK = "/lib/apk/db/lock"  # by flock(2), and the others by fcntl(2)
PACMAN_LOCK = "/var/lib/pacman/db.lck"  # is there as long as pacman is at work
DPKG_UPDATES = "/var/lib/dpkg/updates"  # dpkg's journal: empty as soon as its database is whole

HIBERNATED = ("S1SUSPEND", "LINHIB0001")
"""What stands at the end of a swap's first page instead of SWAPSPACE2 (kernel/power/swap.c; what µswsusp writes)."""

SERVER_PORTS = {"nfs": 2049, "nfs4": 2049, "cifs": 445, "smb3": 445, "ceph": 6789, "9p": 564}
_LOCK = re.compile(r"^\d+: FLOCK\s.*\s([0-9a-f]+:[0-9a-f]+):(\d+) \d+ \S+$", re.MULTILINE)
_FLOCK = struct.Struct("@hhqqi0q")  # struct flock of fcntl(2): type, whence, start, length, pid

ESTABLISHED, SYN_SENT = "01", "02"  # include/net/tcp_states.h


def hibernation(facts: Facts) -> Iterator[Flaw]:
    """What resumes: systemd by a variable that goes when that is done (systemd-hibernate-resume(8)), the kernel and
    other initrds by resume= (Documentation/admin-guide/kernel-parameters.rst)."""
    remedy = "resume that system through the firmware, or make its swap anew with mkswap if it is given up"
    if facts.efi("HibernateLocation", EFI_SYSTEMD) is not None:
        yield Flaw("a hibernated system waits to be resumed (HibernateLocation), and its disks must not change", remedy)
        return
    named = (facts.cmdline.value("resume") or "") if facts.cmdline else ""
    name = block_name(facts, named)
    in_use = {resolve(swap.path, facts.root).rpartition("/")[2] for swap in facts.storage.swaps}
    if name and name not in in_use and _signature(facts, name) in HIBERNATED:
        why = f"the new kernel would resume a hibernated system from {named}, over disks that have changed"
        yield Flaw(why, remedy)


def raid(facts: Facts) -> Iterator[Flaw]:
    for device in facts.storage.stacked:
        if not device.is_md:
            continue
        action = facts.read(f"/sys/block/{device.name}/md/sync_action")
        done = facts.read(f"/sys/block/{device.name}/md/sync_completed").replace(" ", "")
        if device.resyncing or action == "recover":
            how_far = f", {done} sectors done" if "/" in done else ""
            why = f"the array {device.device} is at work ({action}{how_far}), and goes on after the restart"
            yield Flaw(why, "let it end first, if its disks are old")
        elif facts.read(f"/sys/block/{device.name}/md/degraded") not in ("", "0"):
            why = f"the array {device.device} lacks a disk, so that there is no copy of what the next one loses"
            yield Flaw(why, "replace the disk")


def zfs(facts: Facts) -> Iterator[Flaw]:
    """zpool-export(8): a pool that was not exported is taken for one that another machine uses."""
    pools = [name for name in facts.listing("/proc/spl/kstat/zfs") if facts.exists(f"/proc/spl/kstat/zfs/{name}/state")]
    if pools:
        orderly = facts.subject.way is Way.ORDERLY
        why = f"the ZFS pools {', '.join(pools)} are imported, and only ZFS's own services export them"
        severity = Severity.NOTE if orderly else Severity.WARN
        yield Flaw(why, "use `kexecctl reboot`, or export them in a hook that freezes (docs/hooks.md)", severity)


def network_mounts(facts: Facts) -> Iterator[Flaw]:
    """By the state of the connections to the servers: to ask the mounts themselves may never return."""
    mounts = [mount for mount in facts.mounts if mountinfo.kind(mount) is Kind.NETWORK]
    if not mounts:
        return
    silent = _silent_servers(facts)
    for mount in mounts:
        if any(server in silent for server in _servers(mount)):
            why = f"{mount.source} on {mount.point} does not answer: what was written there and not sent will be lost"
            yield Flaw(why, "bring its server back, or unmount it with umount -f")


def package_manager(facts: Facts) -> Iterator[Flaw]:
    if facts.alive:
        held = _locks_held(facts)
        working = [one for one in facts.processes if one.name in WORKING and _is_at_home(one)]
        if working:
            yield Flaw(
                f"{working[0].name} ({working[0].pid}) is at work on what is installed", "wait until it has ended"
            )
        elif held:
            yield Flaw(f"a package manager is at work: {held} is locked", "wait until it has ended")
    if facts.exists(PACMAN_LOCK):
        yield Flaw(
            f"pacman is at work, or was cut short: there is {PACMAN_LOCK}", "wait until it has ended, or run it again"
        )


def interrupted_upgrade(facts: Facts) -> Iterator[Flaw]:
    if any(name.isdecimal() for name in facts.listing(DPKG_UPDATES)):
        yield Flaw("dpkg was interrupted, so that a package may be half installed", "run `dpkg --configure -a`")


def record_space(facts: Facts) -> Iterator[Flaw]:
    path = facts.state_dir
    if not facts.alive or not facts.is_local(path):
        return
    while path != "/" and not os.path.isdir(join_root(facts.root, path)):
        path = os.path.dirname(path)
    room = os.statvfs(join_root(facts.root, path))
    if room.f_flag & os.ST_RDONLY:
        why = f"{path} is read-only, so that nothing can be written down for the boot that follows"
        yield Flaw(why, "remount it read-write")
    elif room.f_blocks and (room.f_bavail * room.f_frsize < RECORD_NEEDS or (room.f_files and not room.f_favail)):
        why = f"the filesystem of {path} is full, so that nothing can be written down for the boot that follows"
        yield Flaw(why, "make room on it")


def unwritten_data(facts: Facts) -> Iterator[Flaw]:
    waiting = sysfs.writeback(facts.root)
    if waiting > MUCH_UNWRITTEN:
        yield Flaw(f"{waiting >> 20} MiB are not on their disks yet, and writing them takes its time", "run sync first")


def _signature(facts: Facts, name: str) -> str:
    """Read by another program: of a disk that does not answer, that program waits and not this one."""
    from kexecd.kernel import spawn  # late: only where resume= names something that is not in use

    page = os.sysconf("SC_PAGESIZE")
    offset = (facts.cmdline.value("resume_offset") or "") if facts.cmdline else ""  # of a file's first page, in pages
    at = (int(offset) if offset.isdecimal() else 0) * page + page - 10
    device = join_root(facts.root, f"/dev/{name.replace('!', '/')}")
    command = ["/bin/dd", f"if={device}", "bs=1", "count=10", f"skip={at}", "status=none"]
    return spawn.run(command, seconds=READING).output.strip("\0")


def _is_at_home(process: Process) -> bool:
    """Whether it works on this system, and not on one that is made in a directory or a container."""
    try:
        top = os.readlink(f"/proc/{process.pid}/root")
        return top == "/" and os.readlink(f"/proc/{process.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    except OSError:
        return False


def _servers(mount: Mount) -> Iterator[tuple[str, int]]:
    """Address and port of a mount's server; nfs(5), mount.cifs(8): the kernel shows both with the mount."""
    options = dict(option.partition("=")[::2] for option in mount.super_options)
    port = options.get("port", "")
    if address := options.get("addr"):
        yield address, int(port) if port.isdecimal() and int(port) else SERVER_PORTS.get(mount.fstype, 0)


def _silent_servers(facts: Facts) -> frozenset[tuple[str, int]]:
    """Those at the other end of a connection that does not come about, or on which data is sent again and again
    (Documentation/networking/proc_net_tcp.rst)."""
    silent = set()
    for name in ("tcp", "tcp6"):
        for line in facts.read(f"/proc/net/{name}").splitlines()[1:]:
            fields = line.split()
            if len(fields) < 7:
                continue
            waiting, again = int(fields[4].partition(":")[0], 16), int(fields[6], 16)
            if fields[3] == SYN_SENT or (fields[3] == ESTABLISHED and waiting and again > 1):
                silent.add(_address(fields[2]))
    return frozenset(silent)


def _address(text: str) -> tuple[str, int]:
    """0100007F:0801 is 127.0.0.1, port 2049: words in the byte order of the machine, which is taken to be little."""
    import socket  # late: only where there is a mount of the network

    digits, _, port = text.partition(":")
    raw = b"".join(bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8))
    address = socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
    return address.removeprefix("::ffff:"), int(port, 16)


def _locks_held(facts: Facts) -> str:
    """The first of the lock files that somebody holds."""
    for path in LOCKS:
        if facts.is_local(path) and _is_locked(join_root(facts.root, path)):
            return path
    return APK_LOCK if facts.is_local(APK_LOCK) and _is_flocked(facts, APK_LOCK) else ""


def _is_locked(path: str) -> bool:
    """By fcntl(2). Asked of the file: before it shows /proc/locks the kernel waits until nobody is just taking a lock,
    10 to 25 ms of every restart."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        told = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return int(_FLOCK.unpack(told)[0]) != fcntl.F_UNLCK
    except OSError:  # a filesystem that knows no locks
        return False
    finally:
        os.close(fd)


def _is_flocked(facts: Facts, path: str) -> bool:
    """By flock(2), which can only be tried, and then may keep somebody from it; so as proc_locks(5) has it."""
    try:
        status = os.stat(join_root(facts.root, path))
    except OSError:
        return False
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    # A subvolume of btrfs has a device number of its own, which is not the one that is shown with the lock.
    return any(
        number == str(status.st_ino) and (not major or device == f"{major:02x}:{minor:02x}")
        for device, number in _LOCK.findall(facts.read("/proc/locks"))
    )
