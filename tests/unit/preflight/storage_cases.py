# SPDX-License-Identifier: MIT
from __future__ import annotations

import ctypes
import fcntl
import os
import socket
from pathlib import Path

from kexecd.config.checks import CheckId
from kexecd.kernel import mountinfo
from kexecd.model import Way
from kexecd.preflight.facts import EFI_SYSTEMD, Facts, Subject
from kexecd.preflight.finding import Severity
from tests.unit.kernel_tree import MEMINFO
from tests.unit.preflight.cases import fires, silent
from tests.unit.preflight.machine import CMDLINE, Machine
from tests.unit.preflight.people_cases import started

MD = "/sys/block/md127"
SWAP_END = os.sysconf("SC_PAGESIZE") - 10


def swap(machine: Machine, signature: bytes) -> Facts:
    """A partition that resume= names, and whose first page ends so."""
    machine.write("/dev/vdb1", bytes(SWAP_END) + signature + bytes(100))
    machine.write("/sys/class/block/vdb1/dev", "254:17\n")
    return machine.facts(Subject(target=machine.target(cmdline=f"{CMDLINE} resume=/dev/vdb1")))


@fires(CheckId.HIBERNATION, Severity.REFUSE, "HibernateLocation")
def systemd_has_hibernated(machine: Machine) -> Facts:
    machine.efi("HibernateLocation", "{}".encode("utf-16-le"), EFI_SYSTEMD)
    return machine.facts()


@fires(CheckId.HIBERNATION, Severity.REFUSE, "would resume a hibernated system from /dev/vdb1")
def a_hibernation_image_where_resume_looks(machine: Machine) -> Facts:
    return swap(machine, b"S1SUSPEND\0")


@fires(CheckId.HIBERNATION, Severity.REFUSE, "from /dev/vdb1")
def a_hibernation_image_in_a_swap_file(machine: Machine) -> Facts:
    pages = 7 * os.sysconf("SC_PAGESIZE")
    machine.write("/dev/vdb1", bytes(pages + SWAP_END) + b"S1SUSPEND\0")
    machine.write("/sys/class/block/vdb1/dev", "254:17\n")
    return machine.facts(Subject(target=machine.target(cmdline=f"{CMDLINE} resume=/dev/vdb1 resume_offset=7")))


@silent(CheckId.HIBERNATION)
def a_swap_where_resume_looks(machine: Machine) -> Facts:
    return swap(machine, b"SWAPSPACE2")


@silent(CheckId.HIBERNATION)
def a_swap_that_is_in_use(machine: Machine) -> Facts:
    machine.write("/proc/swaps", "Filename Type Size Used Priority\n/dev/vdb1 partition 1000 0 -2\n")
    return swap(machine, b"S1SUSPEND\0")


def array(machine: Machine, action: str, *, degraded: int = 0) -> Facts:
    for name, text in (
        ("array_state", "active"),
        ("metadata_version", "1.2"),
        ("sync_action", action),
        ("sync_completed", "none" if action == "idle" else "512 / 2048"),
        ("degraded", str(degraded)),
    ):
        machine.write(f"{MD}/md/{name}", f"{text}\n")
    return machine.facts()


@fires(CheckId.RAID, Severity.WARN, "/dev/md127 is at work (resync, 512/2048 sectors done)")
def an_array_that_is_resynchronised(machine: Machine) -> Facts:
    return array(machine, "resync")


@fires(CheckId.RAID, Severity.WARN, "/dev/md127 is at work (recover")
def an_array_that_is_rebuilt(machine: Machine) -> Facts:
    return array(machine, "recover", degraded=1)


@fires(CheckId.RAID, Severity.WARN, "lacks a disk")
def an_array_that_lacks_a_disk(machine: Machine) -> Facts:
    return array(machine, "idle", degraded=1)


@silent(CheckId.RAID)
def an_array_in_order(machine: Machine) -> Facts:
    return array(machine, "idle")


@fires(CheckId.ZFS, Severity.WARN, "tank")
def a_pool_and_nobody_who_exports_it(machine: Machine) -> Facts:
    machine.write("/proc/spl/kstat/zfs/tank/state", "ONLINE\n")
    return machine.facts(Subject(way=Way.FAST))


@fires(CheckId.ZFS, Severity.NOTE, "tank")
def a_pool_whose_services_may_export_it(machine: Machine) -> Facts:
    machine.write("/proc/spl/kstat/zfs/tank/state", "ONLINE\n")
    return machine.facts(Subject(way=Way.ORDERLY))


@silent(CheckId.ZFS)
def the_module_without_a_pool(machine: Machine) -> Facts:
    machine.write("/proc/spl/kstat/zfs/arcstats", "1\n")
    return machine.facts()


def nfs_of(address: str, port: int) -> str:
    return f"40 22 0:50 / /srv rw - nfs4 server:/srv rw,vers=4.2,port={port},addr={address}\n"


def listener(machine: Machine) -> socket.socket:
    """A server with room for one client that it does not take up."""
    server = machine.opened.enter_context(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    return server


def client(machine: Machine, server: socket.socket) -> None:
    one = machine.opened.enter_context(socket.socket())
    one.setblocking(False)
    one.connect_ex(server.getsockname())


@fires(CheckId.NETWORK_MOUNTS, Severity.WARN, "server:/srv on /srv does not answer")
def a_server_that_takes_no_connection(machine: Machine) -> Facts:
    server = listener(machine)
    for _ in range(4):  # the queue holds one or two; who comes after them stays in SYN_SENT
        client(machine, server)
    machine.write("/proc/net/tcp", Path("/proc/net/tcp").read_bytes())  # real connections
    return machine.facts(mounts=mountinfo.parse(nfs_of(*server.getsockname())))


@fires(CheckId.NETWORK_MOUNTS, Severity.WARN, "does not answer")
def a_server_to_which_data_is_sent_again_and_again(machine: Machine) -> Facts:
    row = "0: 0F02000A:0305 0102000A:0801 01 00000100:00000000 01:00000064 00000007 0 0 1 1 0 20 4 0 1 7\n"
    machine.write("/proc/net/tcp", f"sl local_address rem_address st ...\n{row}")
    return machine.facts(mounts=mountinfo.parse(nfs_of("10.0.2.1", 2049)))


@silent(CheckId.NETWORK_MOUNTS)
def a_server_with_which_all_is_well(machine: Machine) -> Facts:
    server = listener(machine)
    client(machine, server)
    machine.write("/proc/net/tcp", Path("/proc/net/tcp").read_bytes())
    return machine.facts(mounts=mountinfo.parse(nfs_of(*server.getsockname())))


@silent(CheckId.NETWORK_MOUNTS)
def another_connection_that_does_not_come_about(machine: Machine) -> Facts:
    server = listener(machine)
    for _ in range(4):
        client(machine, server)
    machine.write("/proc/net/tcp", Path("/proc/net/tcp").read_bytes())
    return machine.facts(mounts=mountinfo.parse(nfs_of("127.0.0.1", 2049)))


@fires(CheckId.PACKAGE_MANAGER, Severity.REFUSE, "dpkg (")
def dpkg_runs(machine: Machine) -> Facts:
    return machine.facts(processes=(started(machine, "dpkg"),), alive=True)


@silent(CheckId.PACKAGE_MANAGER)
def dpkg_makes_another_system(machine: Machine) -> Facts:
    return machine.facts(processes=(started(machine, "dpkg", apart=True),), alive=True)


@fires(CheckId.PACKAGE_MANAGER, Severity.REFUSE, "/var/lib/dpkg/lock-frontend is locked")
def somebody_holds_dpkgs_lock(machine: Machine) -> Facts:
    lock = machine.opened.enter_context(machine.write("/var/lib/dpkg/lock-frontend").open("r+"))
    fcntl.lockf(lock, fcntl.LOCK_EX)
    return machine.facts(alive=True)


@fires(CheckId.PACKAGE_MANAGER, Severity.REFUSE, "/lib/apk/db/lock is locked")
def somebody_holds_apks_lock(machine: Machine) -> Facts:
    lock = machine.opened.enter_context(machine.write("/lib/apk/db/lock").open("r+"))
    fcntl.flock(lock, fcntl.LOCK_EX)
    machine.write("/proc/locks", Path("/proc/locks").read_bytes())
    return machine.facts(alive=True)


@fires(CheckId.PACKAGE_MANAGER, Severity.REFUSE, "pacman")
def pacmans_lock_is_there(machine: Machine) -> Facts:
    machine.write("/var/lib/pacman/db.lck")
    return machine.facts()


@silent(CheckId.PACKAGE_MANAGER)
def a_lock_that_nobody_holds(machine: Machine) -> Facts:
    machine.write("/var/lib/dpkg/lock-frontend")
    machine.write("/lib/apk/db/lock")
    machine.write("/proc/locks", Path("/proc/locks").read_bytes())
    return machine.facts(alive=True, processes=(started(machine, "unattended-upgr"),))


@fires(CheckId.INTERRUPTED_UPGRADE, Severity.WARN, "dpkg was interrupted")
def dpkg_was_interrupted(machine: Machine) -> Facts:
    machine.write("/var/lib/dpkg/updates/0001")
    return machine.facts()


@fires(CheckId.INTERRUPTED_UPGRADE, Severity.WARN, "dpkg was interrupted")
def what_lies_on_a_disk_below_a_server_is_looked_at(machine: Machine) -> Facts:
    machine.write("/var/lib/dpkg/updates/0001")
    nfs = "30 22 0:40 / /var rw - nfs4 server:/var rw,addr=192.0.2.1\n"
    machine.write("/proc/self/mountinfo", f"{nfs}31 30 254:2 / /var/lib rw - ext4 /dev/vda2 rw\n")
    return machine.facts()


@silent(CheckId.INTERRUPTED_UPGRADE, CheckId.PACKAGE_MANAGER)
def what_lies_on_a_server_is_not_looked_at(machine: Machine) -> Facts:
    """Were it asked and dead, nobody would come back; here it is alive, and would tell."""
    machine.write("/var/lib/dpkg/updates/0001")
    machine.write("/var/lib/pacman/db.lck")
    machine.write("/proc/self/mountinfo", "30 22 0:40 / /var rw - nfs4 server:/var rw,addr=192.0.2.1\n")
    return machine.facts()


@silent(CheckId.INTERRUPTED_UPGRADE)
def dpkg_has_ended_well(machine: Machine) -> Facts:
    machine.write("/var/lib/dpkg/updates/tmp.i")
    return machine.facts()


def mounted(machine: Machine, options: bytes, flags: int = 0) -> None:
    """A real filesystem at /var, in the namespace of the test (tests.unit.preflight.cases.MOUNTS)."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = machine.path / "var"
    place.mkdir()
    assert libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", ctypes.c_ulong(flags), options) == 0


@fires(CheckId.RECORD_SPACE, Severity.REFUSE, "is full")
def a_filesystem_without_room(machine: Machine) -> Facts:
    mounted(machine, b"size=64k")
    machine.write("/var/filler", bytes(60 << 10))
    return machine.facts(alive=True)


@fires(CheckId.RECORD_SPACE, Severity.REFUSE, "is read-only")
def a_filesystem_that_is_read_only(machine: Machine) -> Facts:
    mounted(machine, b"", flags=1)
    return machine.facts(alive=True)


@silent(CheckId.RECORD_SPACE)
def a_filesystem_with_room(machine: Machine) -> Facts:
    mounted(machine, b"size=1m")
    return machine.facts(alive=True)


@silent(CheckId.RECORD_SPACE)
def a_full_filesystem_on_a_server_is_not_asked(machine: Machine) -> Facts:
    mounted(machine, b"size=64k")
    machine.write("/var/filler", bytes(60 << 10))
    machine.write("/proc/self/mountinfo", "30 22 0:40 / /var rw - nfs4 server:/var rw,addr=192.0.2.1\n")
    return machine.facts(alive=True)


@fires(CheckId.UNWRITTEN_DATA, Severity.NOTE, "2048 MiB are not on their disks yet")
def two_gib_that_are_not_written(machine: Machine) -> Facts:
    machine.write("/proc/meminfo", MEMINFO.replace("Dirty:               100 kB", f"Dirty: {(2 << 20) - 28} kB"))
    return machine.facts()


@silent(CheckId.UNWRITTEN_DATA)
def a_few_mib_that_are_not_written(machine: Machine) -> Facts:
    machine.write("/proc/meminfo", MEMINFO.replace("Dirty:               100 kB", "Dirty: 20000 kB"))
    return machine.facts()
