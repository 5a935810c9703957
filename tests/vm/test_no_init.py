# SPDX-License-Identifier: MIT
"""A PID 1 that nobody can talk to: a shell script that only starts again what ends. --fast needs nothing of it."""

from __future__ import annotations

import json

import pytest

from kexecd.errors import ExitCode
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest
from tests.vm.lab.oracle import judge

PID_1 = """#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -o remount,rw /
mountpoint -q /run || mount -t tmpfs run /run
modprobe virtio_console
mount /data
until port=$(grep -l qemu.guest_agent /sys/class/virtio-ports/*/name); do sleep 0.1; done
qemu-ga --daemonize --method virtio-serial --path "/dev/$(basename "$(dirname "$port")")"
while :; do sleep 100000; done
"""


@pytest.fixture
def alone(guest: Guest) -> Guest:
    """A guest whose PID 1 is that script; it got there by a kexec with another init= on the command line."""
    guest.put("/srv/pid1", PID_1.encode(), mode=0o755)
    old, mark = guest.boot_id(), guest.mark()
    guest.spawn("kexecctl", "reboot", "--now", "--append", "init=/srv/pid1")
    guest.wait_for_line("Starting new kernel", mark, 60)
    for _ in range(60):
        if guest.answers(2.0) and guest.boot_id() != old:
            break
    assert "init=/srv/pid1" in guest.cmdline()
    assert json.loads(guest.run("kexecctl", "status", "--json").stdout)["init"] == "pid1"
    return guest


def test_fast_jumps_by_itself_and_leaves_the_disks_clean(alone: Guest) -> None:
    done = alone.run("kexecctl", "reboot", timeout=60, check=False)
    assert done.exit_code == ExitCode.UNSUPPORTED, done.stderr
    assert "pid1" in done.stderr and "--fast" in done.stderr
    assert alone.run("cat", "/sys/kernel/kexec_loaded").stdout.strip() == "0"

    alone.run("sh", "-c", "head -c 30000000 /dev/urandom > /data/big; sha256sum /data/big > /root/sum")
    done = alone.run("kexecctl", "load", "--cmdline", "root=/dev/vda ro console=ttyS0,115200", "--json", timeout=60)
    nonce = json.loads(done.stdout)["image"]["nonce"]
    old, mark = alone.boot_id(), alone.mark()
    alone.spawn("kexecctl", "reboot", "--fast")
    seen = judge(alone, mark, nonce, old)
    said = "\n".join(f"{line.at - mark.at:5.2f} {line.text}" for line in alone.lines(mark) if "kexecd: " in line.text)
    assert seen.kind is Kind.KEXEC and not seen.recovered, f"{seen.explain()}\n{said}"
    assert "verdict: clean" in said, said
    assert alone.run("sha256sum", "--check", "/root/sum").exit_code == 0
