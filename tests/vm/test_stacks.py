# SPDX-License-Identifier: MIT
"""Storage on top of storage comes down in the right order, and clean."""

from __future__ import annotations

import json

from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest
from tests.vm.lab.oracle import judge

STACK = """
set -e
dd if=/dev/zero of=/data/swapfile bs=1M count=64 status=none
chmod 600 /data/swapfile
mkswap -q /data/swapfile
swapon /data/swapfile
truncate -s 96M /data/disk.img
mke2fs -q -t ext4 /data/disk.img
mkdir -p /srv/disk /srv/inner /srv/merged /srv/view
mount -o loop /data/disk.img /srv/disk
truncate -s 32M /srv/disk/inner.img
mke2fs -q -t ext4 /srv/disk/inner.img
mount "$(losetup --find --show /srv/disk/inner.img)" /srv/inner
mkdir /srv/inner/upper /srv/inner/work
mount -t overlay -o lowerdir=/usr/share,upperdir=/srv/inner/upper,workdir=/srv/inner/work overlay /srv/merged
mount --bind /srv/disk /srv/view
mkdir /srv/view/inner.d
mount -t tmpfs memory /srv/view/inner.d
head -c 3000000 /dev/urandom > /srv/merged/file
sha256sum < /srv/merged/file > /data/sum
"""

LOOK = """
set -e
mkdir -p /mnt/disk /mnt/inner
mount -o ro,noload,loop /data/disk.img /mnt/disk
mount -o ro,noload,loop /mnt/disk/inner.img /mnt/inner
sha256sum < /mnt/inner/upper/file
dumpe2fs -h /data/disk.img 2>/dev/null | grep -i features
dumpe2fs -h /mnt/disk/inner.img 2>/dev/null | grep -i features
"""


def test_an_overlay_on_a_loop_on_a_loop_on_a_disk_with_a_swap_file(guest: Guest) -> None:
    guest.run("sh", "-c", STACK, timeout=120)
    nonce = json.loads(guest.run("kexecctl", "load", "--json", timeout=60).stdout)["image"]["nonce"]
    plan = guest.run("kexecctl", "plan", "--fast").stdout
    assert "stop swapping to /data/swapfile" in plan and "unmount /srv/merged" in plan
    old, mark = guest.boot_id(), guest.mark()
    guest.spawn("kexecctl", "reboot", "--fast")
    seen = judge(guest, mark, nonce, old)
    said = "\n".join(line.text for line in guest.lines(mark) if "kexecd: " in line.text)
    assert seen.kind is Kind.KEXEC and not seen.recovered, f"{seen.explain()}\n{said}"
    assert "could not" not in said, said
    assert "verdict: clean" in said, said
    left = guest.run("sh", "-c", LOOK, timeout=60).stdout
    assert left.splitlines()[0] == guest.run("cat", "/data/sum").stdout.strip()
    assert "needs_recovery" not in left, left
