# SPDX-License-Identifier: MIT
"""What is refused or cancelled with a real live update, and that the application goes on and can grow its memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Completed, Guest
from tests.vm.lab.kernel.build import build as build_kernel
from tests.vm.liveupdate import stage
from tests.vm.liveupdate.stage import KERNEL, KEXECCTL, TWIN

GROW = """\
import os, sys
sys.path.insert(0, "/usr/lib/kexecd")
from kexecd import client
fd = client.get("keyvalue")
os.ftruncate(fd, os.fstat(fd).st_size + 4096)
"""

PUTS = """\
import os, socket, sys
sys.path.insert(0, "/usr/lib/kexecd")
from kexecd import client

def put(name, fd):
    try:
        client.put(name, fd)
        print("taken")
    except client.NotDone as no:
        print(no.strerror)

put("pipe", os.pipe()[0])
put("socket", socket.socketpair()[0].fileno())
put("file", os.open("/etc/passwd", os.O_RDONLY))
fd = os.memfd_create("large")
os.ftruncate(fd, 2 << 30)
put("large", fd)
try:
    with client.Connection() as connection:
        connection.get("keyvalue", uid=0)
except client.NotDone as no:
    print(no.strerror)
"""

# The last that is asked whether it agrees, after the holder.
WAITS = """\
hooks:
  - name: waits
    command: [/usr/local/sbin/waits]
    priority: LAST
    timeout: 300
    calls: [prepare]
"""

PATIENCE = 120.0

HOLD_DEVICE = "exec 3<> /dev/liveupdate; exec sleep 1000"


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with stage.start(stage.SYSTEMD, tmp_path, live=True) as one:
        yield one


def kexecctl(guest: Guest, *words: str) -> Completed:
    return guest.run(KEXECCTL, *words, timeout=120, check=False)


def assert_alive_and_growing(guest: Guest) -> None:
    assert stage.shell(guest, "set", "still", "here") == "OK"
    guest.run("/usr/bin/python3", "-c", GROW, timeout=60)
    assert stage.status(guest)["state"] == "normal"


def test_what_cannot_be_carried_is_refused_at_once_with_the_reason(guest: Guest) -> None:
    told = guest.run("/usr/bin/python3", "-c", PUTS, user="daemon", timeout=60).stdout
    assert told.splitlines() == [
        "it is a pipe, and only a memfd can be carried",
        "it is a socket, and only a memfd can be carried",
        "it is a file or a device, and only a memfd can be carried",
        "this user would have 2048.0 MiB held, and 1024.0 MiB are the limit",
        "it is user 0's, and only root may use another's",
    ]


def test_a_holder_that_is_killed_is_missed_before_anything_goes_down(guest: Guest) -> None:
    kexecctl(guest, "load", "--kernel", KERNEL)
    guest.run("sh", "-c", "kill -KILL $(cat /run/kexecd/state.pid)")
    done = kexecctl(guest, "reboot", "--fast")
    assert done.exit_code != 0 and "1 memfd that it held" in done.stderr, done.stderr
    assert stage.shell(guest, "set", "still", "here") == "OK"


def test_a_restart_that_is_cancelled_when_all_is_prepared_gives_everything_back(guest: Guest) -> None:
    kexecctl(guest, "load", "--kernel", KERNEL)
    guest.put("/usr/local/sbin/waits", b"#!/bin/sh\ntouch /run/waits\nexec sleep 1000\n", mode=0o755)
    guest.put("/etc/kexecd/kexecd.yaml", WAITS.encode())
    guest.spawn(KEXECCTL, "reboot", "--fast")
    guest.run("sh", "-c", "until [ -e /run/waits ]; do sleep 0.1; done", timeout=PATIENCE)
    assert stage.status(guest)["state"] == "prepared"
    done = kexecctl(guest, "cancel")
    assert done.exit_code == 0, done.stderr
    assert_alive_and_growing(guest)


def test_while_somebody_else_has_the_device_open_there_is_no_restart(guest: Guest) -> None:
    guest.run("systemd-run", "--unit=holds", "sh", "-c", HOLD_DEVICE)
    guest.run("sh", "-c", "until ls -l /proc/*/fd | grep -q liveupdate; do sleep 0.1; done")
    reboot = ("reboot", "--fast", "--kernel", KERNEL)
    done = kexecctl(guest, *reboot)
    assert done.exit_code != 0 and "(check live-update)" in done.stderr, done.stderr
    done = kexecctl(guest, *reboot, "--ignore", "live-update")
    assert done.exit_code != 0 and "EBUSY" in done.stderr, done.stderr
    assert_alive_and_growing(guest)


def test_a_kernel_that_would_panic_is_refused_and_would_have(guest: Guest) -> None:
    guest.put(TWIN, build_kernel(twin=True).image.read_bytes())
    done = kexecctl(guest, "load", "--kernel", TWIN)
    assert done.exit_code != 0 and "it would panic before it has a console" in done.stderr, done.stderr
    assert "--append kho=off" in done.stderr
    assert_alive_and_growing(guest)
    before = stage.table(guest)
    seen = stage.restart(guest, "--fast", load=("--kernel", TWIN, "--append", "kho=off"))
    assert seen.kind is Kind.KEXEC, seen.explain()
    assert stage.table(guest) == before
    assert stage.status(guest)["carrier"] == "file"
    # And back. Whoever goes around the check still may not; so, with nobody to stop it, the very thing that is refused.
    stage.restart(guest, "--fast", load=("--kernel", KERNEL))
    done = kexecctl(guest, "load", "--kernel", TWIN, "--ignore", "live-update-format")
    assert done.exit_code == 0, done.stderr
    done = kexecctl(guest, "reboot", "--fast")
    assert done.exit_code != 0 and "it would panic before it has a console" in done.stderr, done.stderr
    mark = guest.mark()
    guest.spawn("python3", "-I", "-S", "/usr/lib/kexecd/kexecd/jump.py", "--jump", "--force")
    guest.wait_for_line("Starting new kernel", mark, PATIENCE)
    guest.wait_for_line("Kernel panic - not syncing", mark, PATIENCE)


def test_scratch_areas_that_are_too_small_are_foretold(tmp_path: Path) -> None:
    with stage.start(stage.SYSTEMD, tmp_path, live=True, words="kho=on liveupdate=on kho_scratch=4M,4M,0") as guest:
        guest.run("mount", "-t", "debugfs", "none", "/sys/kernel/debug", check=False)
        told = json.loads(kexecctl(guest, "check", "--kernel", KERNEL, "--json").stdout)
        found = [one for one in told["findings"] if one["check"] == "handover-space"]
        assert found and "kho_scratch=" in found[0]["remedy"], told
        done = kexecctl(guest, "load", "--kernel", KERNEL, "--ignore", "handover-space")
        assert done.exit_code != 0 and "EADDRNOTAVAIL" in done.stderr, done.stderr


def test_what_was_to_stay_in_memory_is_written_down_if_there_is_no_jump_after_all(guest: Guest) -> None:
    """A disk stays writable, since somebody who is spared writes to it: then the firmware, which empties the memory."""
    before = stage.table(guest)
    guest.run("systemd-run", "--unit=holds", "bash", "-c", "exec -a @holds sleep 1000 > /data/held")
    guest.run("sh", "-c", "until [ -e /data/held ]; do sleep 0.1; done")
    seen = stage.restart(guest, "--fast", load=("--kernel", KERNEL))
    assert seen.kind is Kind.FIRMWARE, seen.explain()
    assert stage.table(guest) == before
    told = stage.status(guest)
    assert (told["carrier"], told["lost"]) == ("file", []), told
