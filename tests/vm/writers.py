# SPDX-License-Identifier: MIT
"""Writers: one on each filesystem, that write without fsync until they are asked to quit.

What a writer has written it says to the console, through the kernel's log, after its TERM: a witness outside of the
guest, which no lost file and no forged checksum can agree with by chance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tests.vm.lab.console import Line
from tests.vm.lab.guest import Guest

# A few files are made durable at once, as databases do: Btrfs keeps those in a log of its own until its next commit,
# and has something to replay if it is not left clean. None of these counts: what is counted was never synced.
WRITER = """
import hashlib, os, signal, sys, time
name = where = ""
for argument in sys.argv[1:]:
    name, where = argument.split("=")
    if argument != sys.argv[-1] and os.fork() == 0:
        break
asked = False
def quit(*_):
    global asked
    asked = True
signal.signal(signal.SIGTERM, quit)
os.makedirs(where)
total, number = hashlib.sha256(), 0
def write(size):
    global number
    data = os.urandom(size)
    with open(f"{where}/{number:06}", "wb") as file:
        file.write(data)
    total.update(data)
    number += 1
while not asked:
    write(16384)
    if number % 8 == 1:
        with open(f"{where}/durable", "wb") as file:
            file.write(os.urandom(4096))
            file.flush()
            os.fsync(file.fileno())
    if number == 8:
        open(f"/run/writer.{name}", "w").close()
    time.sleep(0.05)
write(1048576)  # what it still had in memory
with open("/dev/kmsg", "w") as log:
    log.write(f"writer {name}: {number} files {total.hexdigest()}")
"""

READER = """
import hashlib, json, os, sys
found = {}
for where in sys.argv[1:]:
    total, number = hashlib.sha256(), 0
    try:
        while True:
            with open(f"{where}/{number:06}", "rb") as file:
                total.update(file.read())
            number += 1
    except FileNotFoundError:
        pass
    found[where] = [number, total.hexdigest()]
print(json.dumps(found))
"""

_SAID = re.compile(r"writer (\S+): (\d+) files ([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Writer:
    """A process that writes in `where`. unit: in a unit of their own, or strays in somebody else's."""

    name: str
    where: str
    unit: bool = False

    @property
    def argument(self) -> str:
        return f"{self.name}={self.where}"


WRITERS = (
    Writer("root", "/var/lib/writer", unit=True),
    Writer("data", "/data/writer"),
    Writer("xfs", "/srv/xfs/writer", unit=True),
    Writer("btrfs", "/srv/btrfs/writer"),
    Writer("loop", "/srv/loop/writer"),
    Writer("overlay", "/srv/overlay/writer", unit=True),
)


@dataclass(frozen=True, slots=True)
class Content:
    """How many files, and one SHA-256 over all of them in order."""

    files: int
    sha256: str


def start(guest: Guest) -> None:
    """Start all of them, in directories of their own that are empty, and wait until each is at work."""
    guest.put("/srv/writer.py", WRITER.encode())
    guest.put("/srv/reader.py", READER.encode())
    guest.run("rm", "-rf", *(writer.where for writer in WRITERS), timeout=60)
    command = ("/usr/bin/python3", "/srv/writer.py")
    units = (writer.argument for writer in WRITERS if writer.unit)
    guest.run("systemd-run", "--quiet", "--unit=writers", *command, *units)
    guest.spawn("/usr/bin/setsid", *command, *(writer.argument for writer in WRITERS if not writer.unit))
    ready = " ".join(f"/run/writer.{writer.name}" for writer in WRITERS)
    wait = f"until ls {ready} > /dev/null 2>&1; do sleep 0.2; done"
    guest.run("timeout", "60", "sh", "-c", wait, timeout=70)


def said(lines: Iterable[Line]) -> dict[str, Content]:
    """What the writers said on the console, by their names."""
    found = (_SAID.search(line.text) for line in lines)
    return {match[1]: Content(int(match[2]), match[3]) for match in found if match}


def kept(guest: Guest) -> dict[str, Content]:
    """What lies on the disks now, by the writers' names."""
    done = guest.run("python3", "/srv/reader.py", *(writer.where for writer in WRITERS), timeout=120)
    found = json.loads(done.stdout)
    return {writer.name: Content(*found[writer.where]) for writer in WRITERS}
