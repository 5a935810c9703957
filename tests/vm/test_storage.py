# SPDX-License-Identifier: MIT
"""Root on LVM on LUKS, XFS on a mirror, Btrfs on two disks, an overlay, a loop file, a swap file, and an NFS server
that is gone: kexecs in a row, out of the middle of work, each clean.

`make soak` does the same fifty times.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.vm import writers
from tests.vm.journey import KEXECCTL, kexec, prepare
from tests.vm.lab.booted import booted
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest
from tests.vm.lab.image import BARE, build
from tests.vm.lab.oracle import judge
from tests.vm.lab.recipe import DEBIAN12_STORAGE

KEXECS = 5

JUMP = 'import ctypes; ctypes.CDLL("libc.so.6").reboot(0x45584543)'
"""LINUX_REBOOT_CMD_KEXEC, include/uapi/linux/reboot.h; nothing is asked, written back or closed before."""


SEEN = (
    "EXT4-fs (dm-1): recovery complete",
    "EXT4-fs (vda1): recovery complete",
    "data: recovering journal",  # by fsck, before the kernel sees it
    "EXT4-fs (loop0): recovery complete",
    "XFS (md127): Ending recovery",
    "BTRFS info (device vde): start tree-log replay",
)


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """The storage guest with the project of this checkout; one for all of it, as a server lives through its years."""
    snapshot = booted(build(DEBIAN12_STORAGE, BARE), cpus=1)
    with Guest.from_snapshot(snapshot, workdir=tmp_path_factory.mktemp("layered")) as guest:
        prepare(guest)
        yield guest


def test_kexecs_in_a_row_lose_nothing_replay_nothing_and_keep_the_deadline(layered: Guest) -> None:
    for number in range(1, KEXECS + 1):
        seen = kexec(layered, number)
        print(seen.line())
        assert not seen.problems, "\n".join((*seen.problems, seen.told))


VOLUME = """
set -e
truncate -s 64M /data/volume.img
loop=$(losetup --find --show /data/volume.img)
head -c 64 /dev/urandom > /root/volume.key
cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "$loop" /root/volume.key
cryptsetup open --key-file /root/volume.key "$loop" volume
mke2fs -q -t ext4 /dev/mapper/volume
mkdir -p /srv/volume
mount /dev/mapper/volume /srv/volume
head -c 5000000 /dev/urandom > /srv/volume/file
sha256sum < /srv/volume/file > /data/volume.sum
"""

OPENED = """
set -e
cryptsetup open --readonly --key-file /root/volume.key "$(losetup --find --show --read-only /data/volume.img)" volume
dumpe2fs -h /dev/mapper/volume 2>/dev/null | grep features
mkdir -p /srv/volume
mount -o ro,noload /dev/mapper/volume /srv/volume
sha256sum < /srv/volume/file
"""


def test_an_encrypted_volume_that_the_root_is_not_on_is_closed(layered: Guest) -> None:
    """ext4 on LUKS on a loop device on a file: four things to take away, each after the one above it."""
    layered.run("sh", "-c", VOLUME, timeout=120)
    plan = layered.run(KEXECCTL, "plan", "--fast", timeout=60).stdout
    for step in ("unmount /srv/volume", "close /dev/mapper/volume", "detach /dev/loop", "unmount /data"):
        assert step in plan, f"{step} is not in\n{plan}"
    nonce = json.loads(layered.run(KEXECCTL, "load", "--json", timeout=60).stdout)["image"]["nonce"]
    old, mark = layered.boot_id(), layered.mark()
    layered.spawn(KEXECCTL, "reboot", "--fast")
    seen = judge(layered, mark, nonce, old)
    said = "\n".join(line.text for line in layered.lines(mark) if "kexecd: " in line.text)
    assert seen.kind is Kind.KEXEC and not seen.recovered, f"{seen.explain()}\n{said}"
    assert "could not" not in said and "volume" not in said.partition("verdict: ")[2], said
    opened = layered.run("sh", "-c", OPENED, timeout=60).stdout
    assert "needs_recovery" not in opened, opened
    assert opened.splitlines()[-1] == layered.run("cat", "/data/volume.sum").stdout.strip()


def test_a_jump_without_a_way_down_is_seen_on_every_filesystem(layered: Guest) -> None:
    """What the test above is worth: the same work, and a jump that closes nothing."""
    writers.start(layered)
    layered.run(KEXECCTL, "load", timeout=60)
    old, mark = layered.boot_id(), layered.mark()
    layered.spawn("python3", "-c", JUMP)
    seen = judge(layered, mark, None, old)
    assert seen.kind is Kind.KEXEC, seen.explain()
    replayed = "\n".join(seen.recovered)
    for filesystem in SEEN:
        assert filesystem in replayed, f"{filesystem} is not among\n{replayed}"
