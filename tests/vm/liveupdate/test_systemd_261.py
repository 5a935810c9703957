# SPDX-License-Identifier: MIT
"""systemd 261 and later has a live update of its own, for what its units have stored: neither is in the other's way.

Debian's testing on the lab's kernel. PID 1 opens /dev/liveupdate once when it starts, before any service, and
systemd-shutdown once more just before the jump, for a session `systemd` (src/core/luo.c, src/shared/luo-util.c). What
that takes is FileDescriptorStoreMax= and FileDescriptorStorePreserve=yes in the unit, and that it is PID 1 who jumps.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest
from tests.vm.lab.recipe import DEBIAN14_SYSTEMD
from tests.vm.liveupdate import stage

RECIPE = replace(DEBIAN14_SYSTEMD, name="live-forky", base=DEBIAN14_SYSTEMD.name)
SINCE = 261

# Has its memory from PID 1 if that has any for it, and else makes it and gives it there; says which of the two, and
# what is in it.
PROGRAM = """\
import hashlib, os, signal, socket

NAME = "kept"
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1))
names = os.environ.get("LISTEN_FDNAMES", "").split(":")
if NAME in names:
    how, fd = "came", 3 + names.index(NAME)
else:
    how, fd = "made", os.memfd_create(NAME, os.MFD_CLOEXEC)
    os.write(fd, os.urandom(8 << 20))
    socket.send_fds(notify, [f"FDSTORE=1\\nFDNAME={NAME}".encode()], [fd])
content = os.pread(fd, os.fstat(fd).st_size, 0)
with open("/run/descriptors", "w") as file:
    file.write(f"{how} {len(content)} {hashlib.sha256(content).hexdigest()}")
notify.send(b"READY=1")
signal.pause()
"""
PLACE = "/opt/descriptors.py"

UNIT = f"""\
[Service]
Type=notify
ExecStart=/usr/bin/python3 {PLACE}
FileDescriptorStoreMax=8
FileDescriptorStorePreserve=yes
[Install]
WantedBy=multi-user.target
"""

OURS = b"".join(hashlib.sha512(b"part %d" % part).digest() for part in range(1 << 14))

# What PID 1 has stored for others that is no memfd it does say to be lost: that is as it was before live update.
COMPLAINTS = re.compile(r"EBUSY|resource busy|'kept'.* lost|not come over|Failed to .*(LUO session|/dev/liveupdate)")


@dataclass(frozen=True, slots=True)
class Kept:
    """What is there. stored: what PID 1's unit says; ours: the checksum of what the shell has handed to us."""

    stored: str
    ours: str
    table: stage.Sum


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with stage.start(RECIPE, tmp_path, live=True) as one:
        version = re.search(r"systemd (\d+)", one.run("systemctl", "--version").stdout)
        assert version and int(version[1]) >= SINCE, "this systemd hands nothing over"
        one.put(PLACE, PROGRAM.encode())
        one.put("/etc/systemd/system/descriptors.service", UNIT.encode())
        one.run("sh", "-ec", "systemctl daemon-reload; systemctl enable --now descriptors", timeout=60)
        yield one


def kept(guest: Guest, how: str) -> Kept:
    told, _, stored = guest.get("/run/descriptors").decode().partition(" ")
    assert told == how, f"{told}, and not {how}"
    checksum = guest.run("sh", "-c", f"{stage.KEXECCTL} state get ours | sha256sum", timeout=60).stdout.split()[0]
    return Kept(stored, checksum, stage.table(guest))


def shown(guest: Guest, *words: str) -> str:
    return guest.run("systemctl", "show", "--value", *words).stdout.strip()


def test_what_pid_1_has_stored_and_what_we_hold_arrive_side_by_side_twice(guest: Guest) -> None:
    stage.shell(guest, "fill", "1000")
    guest.put("/opt/ours", OURS)
    guest.run(stage.KEXECCTL, "state", "put", "ours", "/opt/ours", timeout=60)
    before = kept(guest, "made")
    assert before.ours == hashlib.sha256(OURS).hexdigest()
    for count in (1, 2):
        mark = guest.mark()
        seen = stage.restart(guest)
        assert (seen.kind, seen.recovered) == (Kind.KEXEC, ()), seen.explain()
        assert kept(guest, "came") == before
        told = stage.status(guest)
        assert (told["carrier"], told["count"], told["lost"]) == ("memory", 2, []), told
        assert shown(guest, "descriptors.service", "--property=NFileDescriptorStore") == "1"
        assert shown(guest, "--property=KExecCount") == str(count)
        said = [*guest.run("journalctl", "--no-pager", "--output=cat").stdout.splitlines()]
        said += [line.text for line in guest.lines(mark)]
        assert not [line for line in said if COMPLAINTS.search(line)]
